//! The end of a WebSocket that Hark closes first. Owns finding the peer's close frame in what still comes, behind which the connection ends
//! at once (RFC 6455, section 7.1.1); whatever else comes is thrown away.

/// Walks over frames, from one's beginning on.
#[derive(Debug, Default)]
pub(super) struct Closing {
    /// The first bytes of a frame's header, while they are not all there.
    header: Vec<u8>,
    /// Bytes of the frame's payload that are still to come.
    payload_bytes: u64,
    is_close: bool,
}

impl Closing {
    /// Whether the peer's close frame has come with this. Where the session had ended in the midst of a frame what follows is misread: then
    /// the connection ends a little sooner or later, as it would have without this.
    pub(super) fn comes_with(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.payload_bytes > 0 {
                let passed = self.payload_bytes.min(bytes.len() as u64);
                self.payload_bytes -= passed;
                bytes = &bytes[passed as usize..];
            } else {
                self.header.push(bytes[0]);
                bytes = &bytes[1..];
                let Some(payload_bytes) = payload_bytes(&self.header) else {
                    continue;
                };
                self.is_close = self.header[0] & 0x0f == 8;
                self.payload_bytes = payload_bytes;
                self.header.clear();
            }
            if self.is_close && self.payload_bytes == 0 {
                return true;
            }
        }
        false
    }
}

/// What a whole header announces (RFC 6455, section 5.2); `None` while it is not whole.
fn payload_bytes(header: &[u8]) -> Option<u64> {
    let (_, rest) = header.split_first_chunk::<2>()?;
    let mask_bytes = if header[1] & 0x80 != 0 { 4 } else { 0 };
    let (length, length_bytes) = match header[1] & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
        127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
        length => (u64::from(length), 0),
    };
    (rest.len() >= length_bytes + mask_bytes).then_some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(op: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0x80 | op];
        match payload {
            0..126 => frame.push(0x80 | payload as u8),
            126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.extend(vec![0x88; payload]);
        frame
    }

    #[test]
    fn the_close_frame_is_found_behind_whatever_comes_before_it() {
        let before = [frame(1, 5), frame(2, 300), frame(9, 0), frame(1, 70_000)].concat();
        for payload in [0, 2, 125] {
            let all = [before.clone(), frame(8, payload)].concat();
            for at_a_time in [1, 7, all.len()] {
                let mut closing = Closing::default();
                let pieces: Vec<_> = all.chunks(at_a_time).collect();
                let (last, others) = pieces.split_last().unwrap();
                assert!(!others.iter().any(|piece| closing.comes_with(piece)));
                assert!(closing.comes_with(last), "{payload}, {at_a_time}");
            }
        }
    }
}
