//! Server-sent events: what is in the `data` of each, however the bytes arrive. Pure.

/// The longest line.
const LINE: usize = 4 << 20;

/// A stream that is read.
#[derive(Debug, Default)]
pub(super) struct Events {
    line: Vec<u8>,
    data: Option<String>,
}

/// A line that is longer than any server writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of more than {LINE} bytes")]
pub(super) struct TooLong;

impl Events {
    /// Takes the next bytes; gives the data of the events that end in them.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut found = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                if self.line.len() >= LINE {
                    return Err(TooLong);
                }
                self.line.push(*byte);
                continue;
            }
            let line = String::from_utf8_lossy(&self.line);
            let line = line.strip_suffix('\r').unwrap_or(&line);
            if line.is_empty() {
                found.extend(self.data.take());
            } else if let Some(data) = line.strip_prefix("data:") {
                let data = data.strip_prefix(' ').unwrap_or(data);
                match &mut self.data {
                    Some(all) if all.len() + data.len() > LINE => return Err(TooLong),
                    Some(all) => {
                        all.push('\n');
                        all.push_str(data);
                    }
                    None => self.data = Some(data.to_owned()),
                }
            }
            self.line.clear();
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn events_end_with_an_empty_line() {
        let mut events = Events::default();
        let text = ": ping\n\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:one\ndata: two\n\ndata: half";
        assert_eq!(events.push(text.as_bytes()).unwrap(), ["{\"a\":1}", "one\ntwo"]);
        assert_eq!(events.push(b" done\n\n").unwrap(), ["half done"]);
        assert_eq!(Events::default().push(&vec![b'x'; LINE + 1]), Err(TooLong));
    }

    proptest! {
        #[test]
        fn however_the_bytes_arrive(
            texts in prop::collection::vec("[ -~ä漢]{0,20}", 0..8), cuts in prop::collection::vec(0..200_usize, 0..9),
        ) {
            let whole: String = texts.iter().map(|text| format!("data: {text}\n\n")).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| *cut < whole.len()).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let mut events = Events::default();
            let mut found = Vec::new();
            for pair in cuts.windows(2) {
                found.extend(events.push(&whole.as_bytes()[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(found, texts);
        }
    }
}
