//! A large transaction in pieces.
//!
//! iptables-nft-restore takes time quadratic in the chains of one transaction (5,000 services with five endpoints each:
//! 108 s in one, 2.3 s in pieces). What is split is no longer atomic, so the order matters: a chain is written before
//! those that jump to it, and the jumps from built-in chains, which make all of it visible, come last.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{Chain, ChainName, Table, Transaction};

impl Transaction {
    /// The same changes in transactions of at most `max_chains` chains each (at least 1), to be written in this order.
    ///
    /// Chains are reordered so that each comes after those it jumps to; apart from that they keep the order in which
    /// they were given. The last piece of chains is followed by one with all jumps and, if they fit, the deletions;
    /// more deletions come in pieces that first empty and then delete.
    #[must_use]
    pub fn chunks(mut self, max_chains: usize) -> Vec<Self> {
        let max_chains = max_chains.max(1);
        if self.chain_count() <= max_chains {
            return if self.is_empty() { Vec::new() } else { vec![self] };
        }
        let mut pieces = Pieces { max_chains, done: Vec::new(), open: Self::new() };
        let (mut dropped, mut dropped_count) = (Vec::new(), 0);
        for table in Table::WRITE_ORDER {
            let Some(changes) = self.tables.get_mut(&table) else { continue };
            for chain in leaves_first(std::mem::take(&mut changes.replaced)) {
                pieces.room().add_chain(table, chain);
            }
            dropped_count += changes.dropped.len();
            dropped.push((table, std::mem::take(&mut changes.dropped)));
        }
        pieces.close();
        // What is left in `self` is the jumps.
        if dropped_count <= max_chains {
            for (table, chains) in dropped {
                self.table(table).dropped = chains;
            }
            pieces.push(self);
            return pieces.done;
        }
        pieces.push(self);
        for delete in [false, true] {
            for (table, chains) in &dropped {
                for (name, _) in chains.iter().filter(|(_, wanted)| *wanted || !delete) {
                    pieces.room().table(*table).dropped.push((*name, delete));
                }
            }
            pieces.close();
        }
        pieces.done
    }
}

struct Pieces {
    max_chains: usize,
    done: Vec<Transaction>,
    open: Transaction,
}

impl Pieces {
    /// A transaction with room for one chain more.
    fn room(&mut self) -> &mut Transaction {
        if self.open.chain_count() >= self.max_chains {
            self.close();
        }
        &mut self.open
    }

    fn close(&mut self) {
        let piece = std::mem::take(&mut self.open);
        self.push(piece);
    }

    fn push(&mut self, piece: Transaction) {
        if !piece.is_empty() {
            self.done.push(piece);
        }
    }
}

/// Depth first, without recursion: the depth of chains is the caller's. Loops, which the kernel refuses, end here too.
fn leaves_first(chains: Vec<Arc<Chain>>) -> Vec<Arc<Chain>> {
    let places: HashMap<ChainName, usize> = chains.iter().enumerate().map(|(at, chain)| (chain.name, at)).collect();
    let jumps = |chain: &Chain| -> Vec<usize> {
        let targets = chain.rules.iter().filter_map(|rule| rule.target.as_ref()?.chain());
        targets.filter_map(|name| places.get(&name).copied()).collect()
    };
    let mut waiting: Vec<(Option<Arc<Chain>>, Vec<usize>)> = chains
        .into_iter()
        .map(|chain| {
            let jumps = jumps(&chain);
            (Some(chain), jumps)
        })
        .collect();
    let mut seen = vec![false; waiting.len()];
    let mut ordered = Vec::with_capacity(waiting.len());
    for start in 0..waiting.len() {
        let mut path = vec![start];
        while let Some(&at) = path.last() {
            let (Some(seen_here), Some((chain, targets))) = (seen.get_mut(at), waiting.get_mut(at)) else { break };
            let first_visit = !std::mem::replace(seen_here, true);
            if first_visit && !targets.is_empty() {
                let targets = std::mem::take(targets);
                // The first target ends up on top.
                path.extend(targets.into_iter().rev().filter(|target| !seen.get(*target).is_some_and(|seen| *seen)));
                continue;
            }
            ordered.extend(chain.take());
            path.pop();
        }
    }
    ordered
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Position, Rule};

    fn name(text: &str) -> ChainName {
        ChainName::new(text).unwrap()
    }

    fn jumping(from: &str, to: &[&str]) -> Chain {
        Chain::new(name(from), to.iter().map(|to| Rule::new().jump(name(to))).collect())
    }

    #[test]
    fn leaves_come_first_and_jumps_last() {
        let mut whole = Transaction::new();
        whole
            .insert_jump(Table::Nat, name("OUTPUT"), Position::First, Rule::new().jump(name("ROOT")))
            .replace_chain(Table::Nat, &jumping("ROOT", &["S1", "S2", "KEPT"]))
            .replace_chain(Table::Nat, &jumping("S1", &["E1", "E2"]))
            .replace_chain(Table::Nat, &jumping("S2", &["E2"]))
            .replace_chain(Table::Nat, &jumping("E1", &[]))
            .replace_chain(Table::Nat, &jumping("E2", &[]))
            .delete_chain(Table::Nat, name("OLD"));
        let pieces = whole.chunks(2);
        let names: Vec<Vec<String>> = pieces
            .iter()
            .map(|piece| piece.tables[&Table::Nat].replaced.iter().map(|chain| chain.name.to_string()).collect())
            .collect();
        assert_eq!(names, [vec!["E1", "E2"], vec!["S1", "S2"], vec!["ROOT"], vec![]]);
        assert_eq!(pieces[3].render(), "*nat\n:OLD - [0:0]\n-I OUTPUT -j ROOT\n-X OLD\nCOMMIT\n");
    }

    #[test]
    fn many_deletions_are_emptied_first() {
        let mut whole = Transaction::new();
        whole.delete_jump(Table::Nat, name("OUTPUT"), Rule::new().jump(name("A")));
        for text in ["A", "B", "C"] {
            whole.delete_chain(Table::Nat, name(text));
        }
        let texts: Vec<String> = whole.chunks(2).iter().map(Transaction::render).collect();
        assert_eq!(
            texts,
            [
                "*nat\n-D OUTPUT -j A\nCOMMIT\n",
                "*nat\n:A - [0:0]\n:B - [0:0]\nCOMMIT\n",
                "*nat\n:C - [0:0]\nCOMMIT\n",
                "*nat\n:A - [0:0]\n:B - [0:0]\n-X A\n-X B\nCOMMIT\n",
                "*nat\n:C - [0:0]\n-X C\nCOMMIT\n",
            ]
        );
    }

    #[test]
    fn small_transactions_stay_whole() {
        assert!(Transaction::new().chunks(3).is_empty());
        let mut whole = Transaction::new();
        whole.replace_chain(Table::Nat, &jumping("A", &["A"]));
        assert_eq!(whole.clone().chunks(0), [whole]);
    }

    proptest! {
        /// Any graph without loops, given in any order: nothing is lost and no chain comes before one it jumps to.
        #[test]
        fn no_chain_before_its_targets(
            jumps in prop::collection::vec(prop::collection::vec(0_usize..40, 0..4), 1..40),
            max_chains in 1_usize..10,
            order in any::<u64>(),
        ) {
            let mut chains: Vec<Chain> = jumps.iter().enumerate().map(|(at, to)| {
                let to: Vec<String> = to.iter().filter(|to| **to < at).map(|to| format!("C{to}")).collect();
                jumping(&format!("C{at}"), &to.iter().map(String::as_str).collect::<Vec<_>>())
            }).collect();
            let count = chains.len();
            chains.sort_by_key(|chain| chain.name.as_str().bytes().fold(order, |hash, b| (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)));
            let mut whole = Transaction::new();
            for chain in chains {
                whole.add_chain(Table::Nat, chain);
            }
            let pieces = whole.chunks(max_chains);
            let mut written = std::collections::HashSet::new();
            for piece in &pieces {
                prop_assert!(piece.chain_count() <= max_chains);
                let chains = &piece.tables[&Table::Nat].replaced;
                written.extend(chains.iter().map(|chain| chain.name));
                for chain in chains {
                    for rule in &chain.rules {
                        prop_assert!(written.contains(&rule.target.as_ref().unwrap().chain().unwrap()));
                    }
                }
            }
            prop_assert_eq!(written.len(), count);
        }
    }
}
