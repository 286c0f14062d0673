//! Texts that many objects share (namespaces, nodes, zones, names of ports) in one copy each.

use foldhash::HashSet;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

#[derive(Debug, Default)]
struct Interned {
    texts: HashSet<Arc<str>>,
    /// At so many those that nobody uses any more are forgotten.
    full: usize,
}

static INTERNED: LazyLock<Mutex<Interned>> = LazyLock::new(Mutex::default);

/// So many are kept without looking.
const FEW: usize = 1024;

/// The one copy of a text. Worthwhile for what few different values occur often of.
pub fn intern(text: &str) -> Arc<str> {
    let mut interned = INTERNED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = interned.texts.get(text) {
        return known.clone();
    }
    if interned.texts.len() >= interned.full.max(FEW) {
        interned.texts.retain(|text| Arc::strong_count(text) > 1);
        interned.full = interned.texts.len() * 2;
    }
    let new: Arc<str> = text.into();
    interned.texts.insert(new.clone());
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_one_and_unused_ones_go() {
        let (one, two) = (intern("zone-a"), intern("zone-a"));
        assert!(Arc::ptr_eq(&one, &two));
        for number in 0..10 * FEW {
            intern(&format!("passing-{number}"));
        }
        // Other tests intern as well, but nothing like that many.
        assert!(INTERNED.lock().unwrap().texts.len() <= 3 * FEW);
        assert!(Arc::ptr_eq(&one, &intern("zone-a")));
    }
}
