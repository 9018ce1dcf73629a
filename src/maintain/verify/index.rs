//! The index of refs: every node that its root leads to, each where it belongs.

use futures_util::{StreamExt, stream};

use crate::format::names::Place;
use crate::maintain::error::is_damage;
use crate::store::{Index, Store, StoreError};

/// Nodes read at a time.
const AT_ONCE: usize = 16;

/// What is wrong with the index. An error only if the store could not be asked.
pub(super) async fn check_index(store: &Store) -> Result<Vec<StoreError>, StoreError> {
    let mut open = match store.index().await {
        Ok(Some(Index::Root(root))) => vec![Place::top(root.body().node)],
        Ok(_) => Vec::new(),
        Err(error) if is_damage(&error) => return Ok(vec![error]),
        Err(error) => return Err(error),
    };
    let mut wrong = Vec::new();
    while !open.is_empty() {
        let read = std::mem::take(&mut open).into_iter().map(|place| async move {
            let node = store.node(&place).await?;
            Ok::<_, StoreError>(place.children(&node).collect::<Vec<_>>())
        });
        let read: Vec<_> = read.collect();
        let mut read = stream::iter(read).buffered(AT_ONCE);
        while let Some(below) = read.next().await {
            match below {
                Ok(below) => open.extend(below),
                Err(error) if is_damage(&error) => wrong.push(error),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(wrong)
}
