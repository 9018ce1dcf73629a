//! What there is for each delivery that is under way: they come in order, and go in order.

use std::collections::VecDeque;

use crate::schedule::plan::{DeliveryIndex, ListIndex};

/// One thing for each of some deliveries that follow each other.
#[derive(Debug)]
pub(super) struct InOrder<T> {
    first: DeliveryIndex,
    items: VecDeque<T>,
}

impl<T> Default for InOrder<T> {
    fn default() -> Self {
        Self { first: DeliveryIndex::FIRST, items: VecDeque::new() }
    }
}

impl<T> InOrder<T> {
    /// Adds what belongs to the next delivery; `None` if another one is next.
    pub(super) fn push(&mut self, index: DeliveryIndex, item: T) -> Option<()> {
        if self.items.is_empty() {
            self.first = index;
        }
        let is_next = self.first.get() + self.items.len() == index.get();
        is_next.then(|| self.items.push_back(item))
    }

    pub(super) fn get_mut(&mut self, index: DeliveryIndex) -> Option<&mut T> {
        self.items.get_mut(index.get().checked_sub(self.first.get())?)
    }

    /// Takes what belongs to the first delivery; `None` if another one is first.
    pub(super) fn pop(&mut self, index: DeliveryIndex) -> Option<T> {
        if index != self.first {
            return None;
        }
        let item = self.items.pop_front()?;
        self.first = index.next();
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_out_of_order_is_refused() {
        let at = DeliveryIndex::at;
        let mut items = InOrder::default();
        assert_eq!(items.push(at(3), 'a'), Some(()));
        assert_eq!(items.push(at(5), 'c'), None);
        assert_eq!(items.push(at(4), 'b'), Some(()));
        assert_eq!(items.pop(at(4)), None);
        assert!([2, 5].into_iter().all(|n| items.get_mut(at(n)).is_none()));
        assert_eq!(items.get_mut(at(4)), Some(&mut 'b'));
        assert_eq!(
            (items.pop(at(3)), items.pop(at(4)), items.pop(at(5))),
            (Some('a'), Some('b'), None)
        );
        assert_eq!(items.push(at(9), 'd'), Some(()));
    }
}
