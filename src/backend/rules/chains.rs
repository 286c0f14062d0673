//! What is known of each chain, by table and name, in little room: a node has six chains for a service with five endpoints.

use super::found::FoundChain;
use data_encoding::BASE32;
use iptables::{ChainName, Table};
use std::collections::BTreeMap;

/// What is known of chains. Their order is none of the names.
#[derive(Debug, Clone, Default)]
pub struct Chains {
    hashed: Hashes,
    named: BTreeMap<(Table, ChainName), FoundChain>,
}

/// Table, prefix, and the ten bytes of which the rest of the name is the base32.
type Hashed = [u8; 12];

/// What the names of a service's chains begin with.
const PREFIXES: [&str; 5] = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];

/// Characters of a hash.
const HASH: usize = 16;

/// Those whose name is a prefix and a hash, by a byte of the hash: short sorted lists take two thirds of the room of a tree,
/// whose nodes stay half empty where names come in no order.
#[derive(Debug, Clone, Default)]
struct Hashes(Vec<Vec<(Hashed, [u8; 12])>>);

impl Hashes {
    fn get(&self, key: &Hashed) -> Option<[u8; 12]> {
        let list = self.0.get(shard(key))?;
        list.get(place(list, key).ok()?).map(|(_, packed)| *packed)
    }

    fn insert(&mut self, key: Hashed, packed: [u8; 12]) {
        if self.0.is_empty() {
            self.0.resize(256, Vec::new());
        }
        let Some(list) = self.0.get_mut(shard(&key)) else { return };
        match place(list, &key) {
            Ok(at) => list.iter_mut().skip(at).take(1).for_each(|entry| entry.1 = packed),
            Err(at) => {
                if list.len() == list.capacity() {
                    list.reserve_exact(8 + list.len() / 8);
                }
                list.insert(at, (key, packed));
            }
        }
    }

    fn remove(&mut self, key: &Hashed) {
        let Some(list) = self.0.get_mut(shard(key)) else { return };
        if let Ok(at) = place(list, key) {
            list.remove(at);
        }
    }

    /// Those that are not in both, or not the same in both.
    fn differing(&self, other: &Self) -> Vec<Hashed> {
        let mut found = Vec::new();
        for shard in 0..self.0.len().max(other.0.len()) {
            let (here, there) = (self.list(shard), other.list(shard));
            if here != there {
                found.extend(here.iter().filter(|entry| there.binary_search(entry).is_err()).map(|(key, _)| *key));
                found.extend(there.iter().filter(|(key, _)| place(here, key).is_err()).map(|(key, _)| *key));
            }
        }
        found
    }

    fn list(&self, shard: usize) -> &[(Hashed, [u8; 12])] {
        self.0.get(shard).map_or(&[], Vec::as_slice)
    }

    fn keys(&self) -> impl Iterator<Item = &Hashed> {
        self.0.iter().flatten().map(|(key, _)| key)
    }

    fn values(&self) -> impl Iterator<Item = FoundChain> {
        self.0.iter().flatten().map(|(_, packed)| unpack(*packed))
    }

    fn len(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }
}

/// By the first byte of the hash, which stands behind table and prefix.
fn shard([_, _, first, ..]: &Hashed) -> usize {
    usize::from(*first)
}

fn place(list: &[(Hashed, [u8; 12])], key: &Hashed) -> Result<usize, usize> {
    list.binary_search_by_key(key, |(known, _)| *known)
}

impl Chains {
    /// What is known of a chain.
    pub fn get(&self, table: Table, name: &ChainName) -> Option<FoundChain> {
        match hashed(table, name) {
            Some(key) => self.hashed.get(&key).map(unpack),
            None => self.named.get(&(table, *name)).copied(),
        }
    }

    /// Whether a chain is there.
    pub fn contains(&self, table: Table, name: &ChainName) -> bool {
        self.get(table, name).is_some()
    }

    /// Takes note of a chain.
    pub fn insert(&mut self, table: Table, name: ChainName, chain: FoundChain) {
        match hashed(table, &name) {
            Some(key) => self.hashed.insert(key, pack(chain)),
            None => drop(self.named.insert((table, name), chain)),
        }
    }

    /// A chain is gone.
    pub fn remove(&mut self, table: Table, name: &ChainName) {
        match hashed(table, name) {
            Some(key) => self.hashed.remove(&key),
            None => drop(self.named.remove(&(table, *name))),
        }
    }

    /// Tables and names of those that are not in both, or not the same in both.
    pub fn differing(&self, other: &Self) -> Vec<(Table, ChainName)> {
        let mut found: Vec<_> = self.hashed.differing(&other.hashed).iter().filter_map(named).collect();
        found.extend(
            self.named.iter().filter(|(key, chain)| other.named.get(*key) != Some(*chain)).map(|(key, _)| *key),
        );
        found.extend(other.named.keys().filter(|key| !self.named.contains_key(*key)));
        found
    }

    /// Tables and names of all.
    pub fn keys(&self) -> impl Iterator<Item = (Table, ChainName)> {
        self.hashed.keys().filter_map(named).chain(self.named.keys().copied())
    }

    /// What is known of all.
    pub fn values(&self) -> impl Iterator<Item = FoundChain> {
        self.hashed.values().chain(self.named.values().copied())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.hashed.len() + self.named.len()
    }
}

fn hashed(table: Table, name: &ChainName) -> Option<Hashed> {
    let numbered = (0_u8..).zip(PREFIXES);
    let (prefix, hash) =
        numbered.into_iter().find_map(|(number, prefix)| Some((number, name.as_str().strip_prefix(prefix)?)))?;
    if hash.len() != HASH {
        return None;
    }
    let bytes: [u8; 10] = BASE32.decode(hash.as_bytes()).ok()?.try_into().ok()?;
    let (number, _) = (0_u8..).zip(Table::WRITE_ORDER).find(|(_, known)| *known == table)?;
    let mut key = [0; 12];
    let (head, tail) = key.split_at_mut(2);
    head.copy_from_slice(&[number, prefix]);
    tail.copy_from_slice(&bytes);
    Some(key)
}

fn named(key: &Hashed) -> Option<(Table, ChainName)> {
    let [table, prefix, hash @ ..] = key;
    let prefix = PREFIXES.get(usize::from(*prefix))?;
    let name = ChainName::new(&format!("{prefix}{}", BASE32.encode(hash))).ok()?;
    Some((*Table::WRITE_ORDER.get(usize::from(*table))?, name))
}

fn pack(chain: FoundChain) -> [u8; 12] {
    let mut packed = [0; 12];
    let (hash, rules) = packed.split_at_mut(8);
    hash.copy_from_slice(&chain.hash.to_ne_bytes());
    rules.copy_from_slice(&chain.rules.to_ne_bytes());
    packed
}

fn unpack([a, b, c, d, e, f, g, h, rules @ ..]: [u8; 12]) -> FoundChain {
    FoundChain { hash: u64::from_ne_bytes([a, b, c, d, e, f, g, h]), rules: u32::from_ne_bytes(rules) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use iptables::hash;

    #[test]
    fn every_name_comes_out_as_it_went_in() {
        let texts = ["KUBE-SERVICES", "KUBE-SVC-", "KUBE-SVC-lower7Z5TQPIEUCL", "KUBE-SEP-0189", "KUBE-SEP-SHORT"];
        let names = texts.into_iter().map(|text| ChainName::new(text).unwrap()).chain([
            hash::service_chain("ns/a:http", "tcp"),
            hash::service_local_chain("ns/a:http", "tcp"),
            hash::external_chain("ns/a:http", "tcp"),
            hash::firewall_chain("ns/a:http", "tcp"),
            hash::endpoint_chain("ns/a:http", "tcp", "10.0.0.1:80"),
        ]);
        let mut expected: Vec<(Table, ChainName)> =
            names.flat_map(|name| [Table::Nat, Table::Filter].map(|table| (table, name))).collect();
        let mut chains = Chains::default();
        for (number, (table, name)) in (u64::MAX - 100..).zip(&expected) {
            chains.insert(*table, *name, FoundChain { hash: number, rules: u32::MAX });
        }
        assert_eq!((chains.len(), chains.hashed.len()), (20, 10));
        for (number, (table, name)) in (u64::MAX - 100..).zip(&expected) {
            assert_eq!(chains.get(*table, name), Some(FoundChain { hash: number, rules: u32::MAX }), "{name}");
        }
        expected.sort_unstable();
        let mut keys: Vec<_> = chains.keys().collect();
        keys.sort_unstable();
        assert_eq!(keys, expected);
        assert!(!chains.contains(Table::Mangle, &keys[0].1));
        assert_eq!(chains.differing(&chains.clone()), []);
        for (table, name) in &keys {
            let (mut less, mut changed) = (chains.clone(), chains.clone());
            less.remove(*table, name);
            changed.insert(*table, *name, FoundChain { hash: 1, rules: 1 });
            for other in [less, changed] {
                assert_eq!(chains.differing(&other), [(*table, *name)]);
                assert_eq!(other.differing(&chains), [(*table, *name)]);
            }
        }
        keys.iter().for_each(|(table, name)| chains.remove(*table, name));
        assert_eq!(chains.len(), 0);
    }
}
