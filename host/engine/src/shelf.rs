//! What is loaded, by digest, so that nothing is compiled or held twice. It holds nothing itself: what nobody
//! uses any more is freed.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Things in use, by name.
pub(crate) struct Shelf<K, V>(Mutex<HashMap<K, Weak<V>>>);

impl<K: Eq + Hash, V> Shelf<K, V> {
    pub(crate) fn new() -> Self {
        Shelf(Mutex::new(HashMap::new()))
    }

    /// Returns the thing of this name if anybody uses it.
    pub(crate) fn find(&self, name: &K) -> Option<Arc<V>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name)?.upgrade()
    }

    /// Puts a thing on the shelf, and returns it; or the one that somebody else has put there in the meantime.
    pub(crate) fn put(&self, name: K, thing: Arc<V>) -> Arc<V> {
        let mut things = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = things.get(&name).and_then(Weak::upgrade) {
            return first;
        }
        things.retain(|_, thing| thing.strong_count() > 0);
        things.insert(name, Arc::downgrade(&thing));
        thing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_first_and_forgets_what_nobody_uses() {
        let shelf = Shelf::new();
        let first = shelf.put("a", Arc::new(1));
        assert_eq!(*shelf.put("a", Arc::new(2)), 1);
        drop(first);
        assert_eq!(shelf.find(&"a"), None);
        let second = shelf.put("b", Arc::new(3));
        assert_eq!(shelf.0.lock().unwrap().len(), 1);
        assert_eq!(*second, 3);
    }
}
