//! What a collection may do with each object: the rules of section 9, without any I/O.
//!
//! Where clocks may differ, times are taken so that an object lives longer, never shorter.

use std::collections::HashMap;

use crate::transport::{ObjectInfo, ObjectPath};

/// How long the tombstone of a deleted object is kept, in seconds: a collection that was paused
/// between its decision and its deletion must not meet a new object of that name.
const AFTERLIFE: u64 = 60 * 60;

/// A lease, as a collection sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// When its writer began, in Unix seconds.
    pub started: u64,
    /// Whether it no longer counts.
    pub expired: bool,
    /// What it lists.
    pub objects: Vec<String>,
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Objects that get a tombstone.
    pub mark: Vec<ObjectInfo>,
    /// Objects that are deleted, with the time of the tombstone that allows it.
    pub free: Vec<(ObjectInfo, u64)>,
    /// Objects whose tombstone is not old enough, or which a running writer may still need.
    pub wait: Vec<ObjectInfo>,
    /// Tombstones of objects that are needed again.
    pub unmark: Vec<ObjectPath>,
    /// Tombstones of objects that were deleted a while ago.
    pub expire: Vec<ObjectPath>,
}

/// Decides for `objects`, of which `is_live` says which are reachable from a ref or a lease.
/// `tombstones` has the time of each marked object's tombstone; times are Unix seconds.
pub fn decide(
    objects: &[ObjectInfo],
    is_live: impl Fn(&ObjectPath) -> bool,
    tombstones: &HashMap<ObjectPath, u64>,
    leases: &[LeaseState],
    now: u64,
    grace: u64,
) -> Decision {
    let mut decision = Decision::default();
    let mut buried = tombstones.clone();
    for object in objects {
        let marked = buried.remove(&object.path);
        let is_listed = |lease: &&LeaseState| {
            !lease.expired && lease.objects.iter().any(|path| path == object.path.as_str())
        };
        let live = is_live(&object.path) || leases.iter().any(|lease| is_listed(&lease));
        match marked {
            None if live => {}
            None => decision.mark.push(object.clone()),
            Some(_) if live => decision.unmark.push(object.path.clone()),
            Some(marked) => {
                let waited = marked.checked_add(grace).is_some_and(|end| end <= now);
                let unseen = leases.iter().all(|lease| lease.expired || lease.started > marked);
                match waited && unseen {
                    true => decision.free.push((object.clone(), marked)),
                    false => decision.wait.push(object.clone()),
                }
            }
        }
    }
    for (path, marked) in buried {
        if is_live(&path) {
            decision.unmark.push(path);
        } else if marked.saturating_add(AFTERLIFE) <= now {
            decision.expire.push(path);
        }
    }
    decision.unmark.sort();
    decision.expire.sort();
    decision
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn path(text: &str) -> ObjectPath {
        ObjectPath::new(text).unwrap()
    }

    fn one(live: bool, marked: Option<u64>, leases: &[LeaseState], now: u64) -> Decision {
        let object =
            ObjectInfo { path: path("packs/a"), size: 5, modified: SystemTime::UNIX_EPOCH };
        let tombstones = marked.map(|marked| (path("packs/a"), marked)).into_iter().collect();
        decide(&[object], |_| live, &tombstones, leases, now, 100)
    }

    fn lease(started: u64, expired: bool, objects: &[&str]) -> LeaseState {
        let objects = objects.iter().map(|&object| object.to_owned()).collect();
        LeaseState { started, expired, objects }
    }

    #[test]
    fn an_object_is_freed_only_under_all_four_rules() {
        assert_eq!(one(true, None, &[], 1000), Decision::default());
        assert_eq!(one(false, None, &[], 1000).mark.len(), 1);
        assert_eq!(one(true, Some(10), &[], 1000).unmark, [path("packs/a")], "(a)");
        assert_eq!(one(false, Some(901), &[], 1000).wait.len(), 1, "(b)");
        assert_eq!(one(false, Some(900), &[], 1000).free.len(), 1, "(b)");
        assert_eq!(one(false, Some(u64::MAX), &[], 1000).wait.len(), 1, "(b), without overflow");
        let listing = lease(950, false, &["packs/b", "packs/a"]);
        assert_eq!(one(false, Some(900), &[listing], 1000).unmark.len(), 1, "(c)");
        for (started, expired, freed) in
            [(899, false, 0), (900, false, 0), (901, false, 1), (899, true, 1)]
        {
            let decision = one(false, Some(900), &[lease(started, expired, &["packs/b"])], 1000);
            assert_eq!((decision.free.len(), decision.wait.len()), (freed, 1 - freed), "(d)");
        }
        assert!(one(false, None, &[lease(0, false, &["packs/a"])], 1000).mark.is_empty());
        assert_eq!(one(false, None, &[lease(0, true, &["packs/a"])], 1000).mark.len(), 1);
    }

    #[test]
    fn tombstones_outlive_their_objects_for_a_while() {
        let tombstones = HashMap::from([(path("packs/a"), 1000)]);
        let decide = |live: bool, now| decide(&[], |_| live, &tombstones, &[], now, 0);
        assert_eq!(decide(false, 1000 + AFTERLIFE - 1), Decision::default());
        assert_eq!(decide(false, 1000 + AFTERLIFE).expire, [path("packs/a")]);
        assert_eq!(decide(true, 1000).unmark, [path("packs/a")]);
    }
}
