//! The EndpointSlices of one Service. One, as a rule: a sorted list, as a map would take 400 bytes for it.

use super::{EndpointSlice, SliceName};
use std::sync::Arc;

/// All slices of one Service, by the slice's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slices(Vec<(SliceName, Arc<EndpointSlice>)>);

impl Slices {
    /// The slice of that name.
    pub fn get(&self, name: &str) -> Option<&Arc<EndpointSlice>> {
        let place = self.place(name).ok()?;
        self.0.get(place).map(|(_, slice)| slice)
    }

    /// Puts a slice in the place of the one that has its name.
    pub fn insert(&mut self, name: SliceName, slice: Arc<EndpointSlice>) {
        match self.place(&name) {
            Ok(place) => self.0.splice(place..=place, [(name, slice)]).for_each(drop),
            Err(place) => {
                self.0.reserve_exact(1);
                self.0.insert(place, (name, slice));
            }
        }
    }

    /// Takes a slice out.
    pub fn remove(&mut self, name: &str) -> Option<Arc<EndpointSlice>> {
        let place = self.place(name).ok()?;
        Some(self.0.remove(place).1)
    }

    /// Names and slices, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&SliceName, &Arc<EndpointSlice>)> {
        self.0.iter().map(|(name, slice)| (name, slice))
    }

    /// The slices, by name.
    pub fn values(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.0.iter().map(|(_, slice)| slice)
    }

    /// The names.
    pub fn keys(&self) -> impl Iterator<Item = &SliceName> {
        self.0.iter().map(|(name, _)| name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

impl FromIterator<(SliceName, Arc<EndpointSlice>)> for Slices {
    fn from_iter<T: IntoIterator<Item = (SliceName, Arc<EndpointSlice>)>>(slices: T) -> Self {
        let mut all = Self::default();
        slices.into_iter().for_each(|(name, slice)| all.insert(name, slice));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_found_by_name_and_stand_in_its_order() {
        let of = |name: &str| (SliceName::from(name), Arc::new(EndpointSlice::for_test(name)));
        let mut slices: Slices = ["b", "a", "c", "b"].map(of).into_iter().collect();
        assert_eq!(slices.keys().map(|name| &**name).collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!((slices.len(), slices.get("b").map(|slice| &*slice.name)), (3, Some("b")));
        assert!(slices.remove("b").is_some() && slices.remove("b").is_none() && slices.get("b").is_none());
        assert_eq!(slices, ["c", "a"].map(of).into_iter().collect());
    }
}
