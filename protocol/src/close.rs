//! The close codes Hark ends a WebSocket with. The code alone tells a client whether to connect again.

/// A WebSocket close code (RFC 6455, section 7.4) as Hark uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The client closed, and Hark answers.
    pub const NORMAL: Self = Self(1000);
    /// The client broke the WebSocket protocol (reserved bits, an unmasked frame, …).
    pub const PROTOCOL: Self = Self(1002);
    /// A binary frame on the JSON subprotocol, or text on the binary one.
    pub const UNSUPPORTED: Self = Self(1003);
    /// Text that is not UTF-8.
    pub const BAD_TEXT: Self = Self(1007);
    /// A frame or a fragmented message over the limit.
    pub const TOO_LARGE: Self = Self(1009);
    /// Hark restarts; connect again after `goodbye.retry_after_ms`.
    pub const RESTART: Self = Self(1012);
    /// Hark has no room for this session just now; connect again later.
    pub const TRY_LATER: Self = Self(1013);
    /// Ten commands in a row that could not be understood.
    pub const BAD_FRAMES: Self = Self(4400);
    /// No token where one is needed, or one that is no good or no longer.
    pub const UNAUTHENTICATED: Self = Self(4401);
    /// The client sent nothing for too long, not even the answer to a ping.
    pub const SILENT: Self = Self(4500);
    /// Something broke inside Hark; connect again and resume.
    pub const INTERNAL: Self = Self(4501);

    /// All that Hark sends. What arrives may be another: of a proxy, or of a newer Hark.
    pub const ALL: [Self; 11] = [
        Self::NORMAL,
        Self::PROTOCOL,
        Self::UNSUPPORTED,
        Self::BAD_TEXT,
        Self::TOO_LARGE,
        Self::RESTART,
        Self::TRY_LATER,
        Self::BAD_FRAMES,
        Self::UNAUTHENTICATED,
        Self::SILENT,
        Self::INTERNAL,
    ];

    /// Whether a client should connect again, by the code alone. A connection that ended without a code should.
    pub const fn should_reconnect(self) -> bool {
        !matches!(
            self.0,
            1000 | 1002 | 1003 | 1007 | 1008 | 1009 | 1010 | 4400..=4499
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_tells_whether_to_connect_again() {
        for again in [1001, 1006, 1011, 1012, 1013, 4500, 4501, 4599] {
            assert!(CloseCode(again).should_reconnect(), "{again}");
        }
        for never in [1000, 1002, 1003, 1007, 1009, 4400, 4401, 4499] {
            assert!(!CloseCode(never).should_reconnect(), "{never}");
        }
    }
}
