//! File descriptors that are kept for the log: connections may have all others. Owns the reserve, and when it is given back.
//!
//! While it is at work sled opens blobs alone (files of their own for what is too large for its log), on the thread that writes, reads
//! or clears up. A blob that cannot be opened is an error that sled keeps, or waits for without end. Values are small enough that no
//! blobs are made; a directory may have some from earlier all the same. While there are any, the reserve is given back over each
//! commit, and where it cannot be had again nothing is written. Everything else that the log needs it has open for life.

use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::io::Errno;

use super::writer::Writer;
use crate::message_log::LogError;

/// One for each thread that may have sled open a blob (the writer, two readers, sled's own), and as many more.
const RESERVED: usize = 8;
/// How often is looked whether there are descriptors again, when nobody publishes.
pub(super) const LOOK_AGAIN_EVERY: Duration = Duration::from_millis(500);

/// Descriptors that stand for others.
#[derive(Debug)]
pub(super) struct Reserve(Vec<File>);

impl Reserve {
    pub(super) fn take() -> io::Result<Self> {
        let mut reserve = Self(Vec::with_capacity(RESERVED));
        reserve.fill()?;
        Ok(reserve)
    }

    /// Opens a file, with a descriptor of the reserve where there is no other.
    pub(super) fn help<T>(&mut self, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let opened = open();
        let lacks = |e: &io::Error| {
            let error = Errno::from_io_error(e);
            error == Some(Errno::MFILE) || error == Some(Errno::NFILE)
        };
        match &opened {
            Err(e) if lacks(e) && self.0.pop().is_some() => open(),
            _ => opened,
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        while self.0.len() < RESERVED {
            self.0.push(File::open("/dev/null")?);
        }
        Ok(())
    }

    fn give_back(&mut self) {
        self.0.clear();
    }
}

impl Writer {
    /// Refuses what would be written while sled might lack a descriptor.
    pub(super) fn check_descriptors(&mut self) -> Result<(), LogError> {
        match self.lacks_descriptors.clone() {
            None => Ok(()),
            Some(reason) => Err(LogError::Lacking(reason)),
        }
    }

    /// Gives the reserve back for what is written next, if sled may need it.
    pub(super) fn lend_descriptors(&mut self) {
        if self.blobs.are_there() && self.lacks_descriptors.is_none() {
            self.reserve.give_back();
        }
    }

    /// Takes the reserve again. Where it cannot be had, nobody is told unless sled needs it.
    pub(super) fn take_descriptors(&mut self) {
        let lacking = match self.reserve.fill() {
            Ok(()) => None,
            Err(_) if !self.blobs.are_there() => None,
            Err(e) => Some(format!(
                "there are too few file descriptors ({e}); raise the limit on open files (ulimit -n), or allow fewer connections"
            )),
        };
        match (&self.lacks_descriptors, &lacking) {
            (None, Some(reason)) => {
                tracing::error!(%reason, "the log takes no publishes until this has passed");
            }
            (Some(_), None) => {
                tracing::info!("there are file descriptors again: the log takes publishes");
            }
            (None, None) | (Some(_), Some(_)) => {}
        }
        if self.lacks_descriptors != lacking {
            self.store.condition().set_lacking(lacking.clone());
            self.lacks_descriptors = lacking;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_lacks_a_descriptor_is_given_one_of_the_reserve() {
        let mut reserve = Reserve::take().unwrap();
        let fail_once = |error: Errno| {
            let tries = Cell::new(0);
            move || match tries.replace(tries.get() + 1) {
                0 => Err(io::Error::from(error)),
                n => Ok(n),
            }
        };
        assert_eq!(reserve.help(fail_once(Errno::MFILE)).unwrap(), 1);
        assert_eq!(reserve.0.len(), RESERVED - 1);
        assert!(reserve.help(fail_once(Errno::ACCESS)).is_err());
        reserve.fill().unwrap();
        assert_eq!(reserve.0.len(), RESERVED);
        reserve.give_back();
        assert!(reserve.help(fail_once(Errno::NFILE)).is_err());
    }
}
