//! The subscriptions of one reader.

use std::sync::Arc;

use fluxmq_index::{Offset, Slab};

use crate::model::Subscription;

/// A reader's subscriptions, by a number that is free again once its subscription is gone. A client may have ten thousand in
/// every partition: each costs a place in a list, and the rest is shared.
#[derive(Debug, Default)]
pub struct Subscriptions {
    slots: Slab<Option<Placed>>,
    free: Vec<u32>,
}

/// One subscription.
#[derive(Debug)]
pub struct Placed {
    /// What was asked for.
    pub subscription: Arc<Subscription>,
    /// Records below are not for it.
    pub start: Offset,
}

impl Subscriptions {
    /// Adds one and returns its number.
    pub fn insert(&mut self, placed: Placed) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.slots[id] = Some(placed);
                id
            }
            None => self.slots.push(Some(placed)),
        }
    }

    /// Removes one.
    pub fn remove(&mut self, id: u32) {
        self.slots[id] = None;
        self.free.push(id);
    }

    /// Returns one.
    pub fn get(&self, id: u32) -> Option<&Placed> {
        self.slots.get(id)?.as_ref()
    }

    /// Returns one, to be changed.
    pub fn get_mut(&mut self, id: u32) -> Option<&mut Placed> {
        self.slots.get_mut(id)?.as_mut()
    }

    /// Lists all of them.
    pub fn iter(&self) -> impl Iterator<Item = &Placed> {
        self.slots.iter().flatten()
    }

    /// Lists all of them, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Placed> {
        self.slots.iter_mut().flatten()
    }
}
