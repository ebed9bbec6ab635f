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
    /// An administrator has ended the session, for good.
    pub const ENDED: Self = Self(4403);
    /// The client sent nothing for too long, not even the answer to a ping.
    pub const SILENT: Self = Self(4500);
    /// Something broke inside Hark; connect again and resume.
    pub const INTERNAL: Self = Self(4501);
    /// An administrator has ended the session; connect again after `goodbye.retry_after_ms`.
    pub const ENDED_FOR_NOW: Self = Self(4503);

    /// All that Hark sends. What arrives may be another: of a proxy, or of a newer Hark.
    pub const ALL: [Self; 13] = [
        Self::NORMAL,
        Self::PROTOCOL,
        Self::UNSUPPORTED,
        Self::BAD_TEXT,
        Self::TOO_LARGE,
        Self::RESTART,
        Self::TRY_LATER,
        Self::BAD_FRAMES,
        Self::UNAUTHENTICATED,
        Self::ENDED,
        Self::SILENT,
        Self::INTERNAL,
        Self::ENDED_FOR_NOW,
    ];

    /// Whether a client connects again, by the code alone. A connection that ended without a code: always.
    ///
    /// 1000 is the end only for the client that closed, which does not have to ask.
    pub const fn connect_again(self) -> ConnectAgain {
        match self.0 {
            1002 | 1003 | 1007 | 1009 => ConnectAgain::NotAfterTheThird,
            4401 => ConnectAgain::OnceWithFreshToken,
            4400..=4499 => ConnectAgain::Never,
            _ => ConnectAgain::Always,
        }
    }
}

/// What a close code says about connecting again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectAgain {
    /// Something passing, or something that stands between and not Hark.
    Always,
    /// Not after the third such ending in a row with no connection between that has proven itself.
    NotAfterTheThird,
    /// Once, by a client that can get another token.
    OnceWithFreshToken,
    /// It would end the same way.
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_tells_whether_to_connect_again() {
        use ConnectAgain::{Always, Never, NotAfterTheThird, OnceWithFreshToken};
        for (codes, expected) in [
            (
                &[
                    0, 1000, 1001, 1006, 1008, 1010, 1011, 1012, 1013, 3000, 4399, 4500, 4501,
                    4503, 4599,
                ][..],
                Always,
            ),
            (&[1002, 1003, 1007, 1009], NotAfterTheThird),
            (&[4401], OnceWithFreshToken),
            (&[4400, 4402, 4403, 4499], Never),
        ] {
            for code in codes {
                assert_eq!(CloseCode(*code).connect_again(), expected, "{code}");
            }
        }
    }
}
