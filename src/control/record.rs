//! What was switched to, kept for the next start: `/run/kube-ipvs/mode-<inode of the network namespace>`, a line of JSON.
//!
//! It counts for as long as the configuration asks for the same as when it was written: who edits the configuration is
//! obeyed. docs/decisions/0019-live-switch.md says why.

use super::FOLDER;
use super::protocol::WishName;
use crate::model::PerFamily;
use crate::reconcile::{Kept, Wish};
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The record of one network namespace.
#[derive(Debug, Clone)]
pub struct Record {
    file: PathBuf,
    asked: Wish,
}

#[derive(Debug, Serialize, Deserialize)]
struct Content {
    version: u32,
    /// What the configuration asked for when this was written.
    configured: WishName,
    ipv4: WishName,
    ipv6: WishName,
    #[serde(default)]
    ipv4_fell_back: bool,
    #[serde(default)]
    ipv6_fell_back: bool,
}

impl Record {
    /// The record of the calling thread's network namespace, under a configuration that asks for this.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn open(asked: Wish) -> io::Result<Self> {
        let number = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(Self { file: Path::new(FOLDER).join(format!("mode-{number}")), asked })
    }

    /// The same record under a configuration that asks for something else, if it does.
    #[must_use]
    pub fn under(&self, configured: Option<Wish>) -> Self {
        Self { file: self.file.clone(), asked: configured.unwrap_or(self.asked) }
    }

    fn content(&self) -> Option<Content> {
        let content: Content = serde_json::from_str(&fs::read_to_string(&self.file).ok()?).ok()?;
        (content.version == 1).then_some(content)
    }

    /// What was switched to under the same configuration, if anything was.
    pub fn read(&self) -> Option<Kept> {
        let content = self.content().filter(|content| Wish::from(content.configured) == self.asked)?;
        Some(Kept {
            wish: PerFamily { v4: content.ipv4.into(), v6: content.ipv6.into() },
            fell_back: PerFamily { v4: content.ipv4_fell_back, v6: content.ipv6_fell_back },
        })
    }

    /// Forgets what was switched to under another configuration: should that one come back, it is newer. Whether there was any.
    pub fn forget_overruled(&self) -> bool {
        let overruled = self.content().is_some_and(|content| Wish::from(content.configured) != self.asked);
        overruled && self.remove().is_ok()
    }

    /// Keeps what was switched to. What is configured anyway needs no record.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, kept: &Kept) -> io::Result<()> {
        let Kept { wish, fell_back } = kept;
        if wish.v4 == self.asked && wish.v6 == self.asked && !fell_back.v4 && !fell_back.v6 {
            return self.remove();
        }
        let content = Content {
            version: 1,
            configured: self.asked.into(),
            ipv4: wish.v4.into(),
            ipv6: wish.v6.into(),
            ipv4_fell_back: fell_back.v4,
            ipv6_fell_back: fell_back.v6,
        };
        fs::create_dir_all(self.file.parent().unwrap_or(Path::new(FOLDER)))?;
        let new = self.file.with_extension("new");
        fs::write(&new, serde_json::to_string(&content)?)?;
        fs::rename(new, &self.file)
    }

    /// Forgets it.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::Mode;

    #[test]
    fn it_counts_while_the_configuration_asks_for_the_same() {
        let folder = std::env::temp_dir().join(format!("kube-ipvs-record-{}", std::process::id()));
        let record = |asked| Record { file: folder.join("mode-1"), asked };
        let ipvs = Wish::Only(Mode::Ipvs);
        let switched = Kept { wish: PerFamily { v4: ipvs, v6: Wish::Auto }, ..Kept::default() };
        assert_eq!(record(Wish::Auto).read(), None);
        record(Wish::Auto).write(&switched).unwrap();
        assert_eq!(record(Wish::Auto).read(), Some(switched));
        assert_eq!(record(Wish::Only(Mode::Iptables)).read(), None, "the configuration was edited");
        record(Wish::Auto).write(&Kept::default()).unwrap();
        assert!(!folder.join("mode-1").exists(), "what is configured needs no record");
        let fell_back = Kept { fell_back: PerFamily { v4: true, v6: false }, ..Kept::default() };
        record(Wish::Auto).write(&fell_back).unwrap();
        assert_eq!(record(Wish::Auto).read(), Some(fell_back));
        assert!(!record(Wish::Auto).forget_overruled() && record(Wish::Auto).read().is_some());
        assert!(record(ipvs).forget_overruled() && record(Wish::Auto).read().is_none());
        let edited = record(Wish::Auto).under(Some(Wish::Only(Mode::Iptables)));
        edited.write(&switched).unwrap();
        assert_eq!((edited.read(), record(Wish::Auto).read()), (Some(switched), None));
        fs::write(folder.join("mode-1"), "{\"version\":1,").unwrap();
        assert_eq!(record(Wish::Auto).read(), None, "half a file");
        fs::remove_dir_all(folder).unwrap();
    }
}
