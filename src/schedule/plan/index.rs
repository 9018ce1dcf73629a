//! Places in the lists of a plan: a type for each list, so that none is taken for another's.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// A place in a list of one kind.
pub trait ListIndex: Copy {
    /// The place of the first.
    const FIRST: Self;

    /// The place behind `before` others.
    fn at(before: usize) -> Self;

    /// How many lie before it.
    fn get(self) -> usize;

    /// The place behind it.
    fn next(self) -> Self {
        Self::at(self.get() + 1)
    }

    /// The place before it.
    fn previous(self) -> Option<Self> {
        self.get().checked_sub(1).map(Self::at)
    }
}

macro_rules! indexes {
    ($($(#[$doc:meta])* $name:ident,)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl ListIndex for $name {
            const FIRST: Self = Self(0);

            fn at(before: usize) -> Self {
                // A list of more is larger than memory.
                Self(before as u32)
            }

            fn get(self) -> usize {
                self.0 as usize
            }
        }
    )*};
}

indexes! {
    /// Which of the plan's tensors.
    TensorIndex,
    /// Which of the plan's deliveries.
    DeliveryIndex,
    /// Which of the plan's chunks.
    ChunkIndex,
    /// Which of a delivery's slots.
    SlotIndex,
    /// Which of a request's records.
    RecordIndex,
}

/// A list whose places are of type `I`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<I, T>(Vec<T>, PhantomData<I>);

impl<I: ListIndex, T> List<I, T> {
    /// What lies there.
    pub fn get(&self, index: I) -> Option<&T> {
        self.0.get(index.get())
    }

    /// What lies there, to change it.
    pub fn get_mut(&mut self, index: I) -> Option<&mut T> {
        self.0.get_mut(index.get())
    }

    /// The place behind all.
    pub fn end(&self) -> I {
        I::at(self.0.len())
    }

    /// Adds an item; gives its place.
    pub fn push(&mut self, item: T) -> I {
        self.0.push(item);
        I::at(self.0.len() - 1)
    }

    /// All, with their places.
    pub fn pairs(&self) -> impl DoubleEndedIterator<Item = (I, &T)> {
        self.0.iter().enumerate().map(|(at, item)| (I::at(at), item))
    }
}

impl<I, T> Deref for List<I, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<I, T> DerefMut for List<I, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<I, T> Default for List<I, T> {
    fn default() -> Self {
        Self(Vec::new(), PhantomData)
    }
}

impl<I, T> FromIterator<T> for List<I, T> {
    fn from_iter<A: IntoIterator<Item = T>>(items: A) -> Self {
        Self(items.into_iter().collect(), PhantomData)
    }
}
