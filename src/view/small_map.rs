//! An ordered map that takes no more memory than what is in it, as long as that is little.
//!
//! A B-tree has room for eleven entries in its smallest node: a million sessions with one subscription each took five times what is
//! in them. Which of the two forms a map has depends on nothing but how much is in it.

use std::collections::BTreeMap;

/// Entries that are kept side by side.
const FEW_MAX: usize = 16;

/// Entries by key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SmallMap<K, V>(Form<K, V>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form<K, V> {
    /// Ascending by key, [`FEW_MAX`] at most.
    Few(Vec<(K, V)>),
    Many(BTreeMap<K, V>),
}

impl<K: Ord, V> SmallMap<K, V> {
    /// Returns the value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        match &self.0 {
            Form::Few(few) => place(few, key).ok().map(|at| &few[at].1),
            Form::Many(many) => many.get(key),
        }
    }

    /// Returns the value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match &mut self.0 {
            Form::Few(few) => place(few, key).ok().map(|at| &mut few[at].1),
            Form::Many(many) => many.get_mut(key),
        }
    }

    /// Sets the value of a key and returns the one it had.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let few = match &mut self.0 {
            Form::Few(few) => few,
            Form::Many(many) => return many.insert(key, value),
        };
        match place(few, &key) {
            Ok(at) => return Some(std::mem::replace(&mut few[at].1, value)),
            Err(at) => {
                few.reserve_exact(1);
                few.insert(at, (key, value));
            }
        }
        if few.len() > FEW_MAX {
            self.0 = Form::Many(std::mem::take(few).into_iter().collect());
        }
        None
    }

    /// Takes a key out and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let value = match &mut self.0 {
            Form::Few(few) => {
                let at = place(few, key).ok()?;
                Some(few.remove(at).1)
            }
            Form::Many(many) => many.remove(key),
        };
        self.shrink();
        value
    }

    /// Keeps the entries of which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        match &mut self.0 {
            Form::Few(few) => few.retain(|(key, value)| keep(key, value)),
            Form::Many(many) => many.retain(|key, value| keep(key, value)),
        }
        self.shrink();
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Form::Few(few) => few.len(),
            Form::Many(many) => many.len(),
        }
    }

    /// Returns true when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lists the entries by key.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let (few, many) = match &self.0 {
            Form::Few(few) => (&few[..], None),
            Form::Many(many) => (&[][..], Some(many)),
        };
        few.iter().map(|(key, value)| (key, value)).chain(many.into_iter().flatten())
    }

    /// Lists the keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Lists the values by key.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Lists the values by key, to be changed.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let (few, many) = match &mut self.0 {
            Form::Few(few) => (&mut few[..], None),
            Form::Many(many) => (&mut [][..], Some(many)),
        };
        let many = many.into_iter().flat_map(BTreeMap::values_mut);
        few.iter_mut().map(|(_, value)| value).chain(many)
    }

    fn shrink(&mut self) {
        match &mut self.0 {
            Form::Few(few) => few.shrink_to_fit(),
            Form::Many(many) if many.len() <= FEW_MAX => {
                self.0 = Form::Few(std::mem::take(many).into_iter().collect());
            }
            Form::Many(_) => {}
        }
    }
}

fn place<K: Ord, V>(few: &[(K, V)], key: &K) -> Result<usize, usize> {
    few.binary_search_by(|(known, _)| known.cmp(key))
}

impl<K, V> Default for SmallMap<K, V> {
    fn default() -> SmallMap<K, V> {
        SmallMap(Form::Few(Vec::new()))
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for SmallMap<K, V> {
    /// The last of several values of a key stays.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> SmallMap<K, V> {
        let mut map = SmallMap::default();
        for (key, value) in entries {
            map.insert(key, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map_and_its_form_is_that_of_its_entries(
            changes in proptest::collection::vec((0_u8..40, any::<Option<u16>>()), 0..120)
        ) {
            let (mut small, mut tree) = (SmallMap::default(), BTreeMap::new());
            for (key, change) in changes {
                match change {
                    Some(value) => prop_assert_eq!(small.insert(key, value), tree.insert(key, value)),
                    None => prop_assert_eq!(small.remove(&key), tree.remove(&key)),
                }
                prop_assert_eq!(small.get(&key), tree.get(&key));
                prop_assert!(small.iter().eq(tree.iter()));
                prop_assert_eq!((small.len(), small.is_empty()), (tree.len(), tree.is_empty()));
                prop_assert_eq!(&small, &tree.clone().into_iter().collect());
            }
            small.values_mut().for_each(|value| *value /= 2);
            tree.values_mut().for_each(|value| *value /= 2);
            small.retain(|key, _| key % 2 == 0);
            tree.retain(|key, _| key % 2 == 0);
            prop_assert!(small.keys().eq(tree.keys()) && small.values().eq(tree.values()));
        }
    }
}
