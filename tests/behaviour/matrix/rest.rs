//! Damage at rest: in a copy of the store, one object at a time.

use std::fs;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use tempfile::TempDir;

use super::world::{Chunk, READERS, REF, Reader, World};
use super::{each, random_cases};
use crate::run::{names, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    PackData,
    PackIndex,
    PackTrailer,
    Table,
    Manifest,
    Layout,
    Signature,
    Ref,
    RefsIndex,
    IndexNode,
    Descriptor,
}

const PLACES: [Place; 11] = [
    Place::PackData,
    Place::PackIndex,
    Place::PackTrailer,
    Place::Table,
    Place::Manifest,
    Place::Layout,
    Place::Signature,
    Place::Ref,
    Place::RefsIndex,
    Place::IndexNode,
    Place::Descriptor,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    FlipBit,
    Truncate,
    Append,
    /// With another object of the same kind.
    Swap,
    /// What was right once.
    Replay,
    Delete,
    /// Other bytes, as many.
    Garbage,
    Zeros,
    Empty,
}

const DAMAGES: [Damage; 9] = [
    Damage::FlipBit,
    Damage::Truncate,
    Damage::Append,
    Damage::Swap,
    Damage::Replay,
    Damage::Delete,
    Damage::Garbage,
    Damage::Zeros,
    Damage::Empty,
];

/// What a reader may end with.
#[derive(Debug, PartialEq, Eq)]
enum Expect {
    /// Status 4, and one of these words.
    Refused(Vec<String>),
    /// Status 3.
    Missing,
    /// The right bytes, or status 4.
    Either,
    /// The right bytes.
    Right,
}

/// A copy of the store in which one thing at a time is wrong.
struct Copy {
    _folder: TempDir,
    store: PathBuf,
}

impl Copy {
    fn new(world: &World) -> Self {
        let folder = tempfile::tempdir_in(world.store.parent().unwrap()).unwrap();
        let store = folder.path().join("store");
        copy(&world.store, &store);
        Self { _folder: folder, store }
    }

    fn restore(&self, world: &World, object: &str) {
        fs::copy(world.store.join(object), self.store.join(object)).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Puts right what a case has damaged, however it ends.
struct Restored<'a> {
    world: &'a World,
    copy: &'a Copy,
    objects: &'a [String],
}

impl Drop for Restored<'_> {
    fn drop(&mut self) {
        self.objects.iter().for_each(|object| self.copy.restore(self.world, object));
    }
}

/// One case: what is damaged how, where exactly following from the seed.
#[derive(Debug, Clone, Copy)]
struct Case {
    place: Place,
    damage: Damage,
    seed: u64,
}

/// The damage done.
struct Done {
    /// Objects that are not what they were.
    objects: Vec<String>,
    expect: Box<dyn Fn(Reader) -> Expect>,
}

impl Case {
    /// Does the damage; `None` if there is no such case.
    fn apply(self, world: &'static World, copy: &Copy) -> Option<Done> {
        let Self { place, damage, seed } = self;
        let mut rng = StdRng::seed_from_u64(seed);
        let chunk: &Chunk = world.chunks.choose(&mut rng).unwrap();
        let signature = || names(&world.store, &format!("signatures/{}/", world.id)).remove(0);
        let (object, kind) = match place {
            Place::PackData | Place::PackIndex | Place::PackTrailer => {
                (chunk.object.clone(), "packs/")
            }
            Place::Table => (world.table.clone(), "tables/"),
            Place::Manifest => (format!("manifests/{}", world.id), "manifests/"),
            Place::Layout => (format!("layouts/{}", world.id), "layouts/"),
            Place::Signature => (signature(), "signatures/"),
            Place::Ref => (REF.to_owned(), "refs/org/"),
            Place::RefsIndex => ("refs/index".to_owned(), "none"),
            Place::IndexNode => (names(&world.store, "names/").remove(0), "names/"),
            Place::Descriptor => ("tenpak.json".to_owned(), "none"),
        };
        let good = fs::read(world.store.join(&object)).unwrap();
        let len = good.len() as u64;
        let index_len = u64::from(u32::from_le_bytes(*good[good.len() - 16..].first_chunk()?));
        // Where the damage begins.
        let at = match place {
            Place::PackData => rng.gen_range(chunk.start..chunk.end),
            Place::PackIndex => rng.gen_range(len - 16 - index_len..len - 16),
            Place::PackTrailer => rng.gen_range(len - 16..len),
            _ => rng.gen_range(0..len),
        };
        let target = copy.store.join(&object);
        let mut objects = vec![object.clone()];
        let mut bad = good.clone();
        let is_pack = kind == "packs/";
        match damage {
            Damage::FlipBit => bad[at as usize] ^= 1 << rng.gen_range(0..8),
            Damage::Truncate => bad.truncate(at as usize),
            Damage::Append => bad.extend((0..rng.gen_range(1..200)).map(|_| rng.r#gen::<u8>())),
            Damage::Garbage => rng.fill_bytes(&mut bad),
            Damage::Zeros => bad.fill(0),
            Damage::Empty => bad.clear(),
            Damage::Delete => {}
            Damage::Swap => {
                let others: Vec<_> =
                    names(&world.store, kind).into_iter().filter(|name| *name != object).collect();
                let other = others.choose(&mut rng)?.clone();
                bad = fs::read(world.store.join(&other)).unwrap();
                fs::write(copy.store.join(&other), &good).unwrap();
                objects.push(other);
            }
            Damage::Replay if place == Place::Ref => bad = world.old_ref.clone(),
            Damage::Replay => return None,
        }
        if damage == Damage::Delete {
            fs::remove_file(&target).unwrap();
        } else {
            fs::write(&target, bad).unwrap();
        }
        // Which of the artifact's chunks are no longer what they were.
        let hit: Vec<_> = world
            .chunks
            .iter()
            .filter(|chunk| match damage {
                _ if !objects.contains(&chunk.object) => false,
                Damage::FlipBit => (chunk.start..chunk.end).contains(&at),
                Damage::Truncate => chunk.end > at,
                Damage::Append => false,
                _ => true,
            })
            .collect();
        let expect = move |reader| {
            if is_pack {
                let owners = hit.iter().filter(|chunk| chunk.is_tensor || reader != Reader::Load);
                let owners: Vec<_> = owners.map(|chunk| chunk.owner.clone()).collect();
                let cut = damage == Damage::Truncate;
                return match reader {
                    // It checks packs whole.
                    Reader::Verify => Expect::Refused(vec![object.clone()]),
                    _ if owners.is_empty() => Expect::Right,
                    // The request that leads beyond the end is named by its first chunk.
                    _ if cut => Expect::Refused(vec![object.trim_start_matches("packs/").into()]),
                    _ => Expect::Refused(owners),
                };
            }
            let short_id = world.id[..16].to_owned();
            let artifact = || vec![object.clone(), short_id.clone(), "org/model".to_owned()];
            match (place, damage, reader) {
                // The one that reads it first.
                (Place::Descriptor, Damage::Delete, Reader::Verify) => Expect::Missing,
                (Place::RefsIndex | Place::IndexNode | Place::Descriptor, _, _) => Expect::Either,
                (Place::Ref, Damage::Delete, _) => Expect::Missing,
                // Not every page, and not every place, is needed for the tensors.
                (Place::Table | Place::Layout, Damage::Append, Reader::Load) => Expect::Either,
                (
                    Place::Table | Place::Layout,
                    Damage::FlipBit | Damage::Truncate,
                    Reader::Load,
                ) => Expect::Either,
                _ => Expect::Refused(artifact()),
            }
        };
        Some(Done { objects, expect: Box::new(expect) })
    }

    fn run(self, world: &'static World, copy: &Copy, readers: &[Reader]) {
        let Some(done) = self.apply(world, copy) else { return };
        let _restored = Restored { world, copy, objects: &done.objects };
        for &reader in readers {
            let expect = (done.expect)(reader);
            let run = world.read(reader, text(&copy.store), &[]);
            let told =
                format!("{self:?} {reader:?}: {expect:?}, but {:?}: {}", run.status, run.error);
            match &expect {
                Expect::Right => assert_eq!(run.status, Some(0), "{told}"),
                Expect::Either => assert!(matches!(run.status, Some(0 | 4)), "{told}"),
                Expect::Missing => assert_eq!(run.status, Some(3), "{told}"),
                Expect::Refused(words) => {
                    assert_eq!(run.status, Some(4), "{told}");
                    assert!(words.iter().any(|word| run.error.contains(word)), "{told}");
                    if matches!(self.place, Place::PackData) && reader != Reader::Verify {
                        for word in [&world.id, "tensor", "chunk"] {
                            assert!(run.error.contains(word), "{word}: {told}");
                        }
                    }
                }
            }
            // A good mirror makes good what is damaged here, but for a layout that leads elsewhere:
            // it is well-formed, so that no other is asked for.
            if reader == Reader::Load && !matches!(self.place, Place::Layout) {
                let mirror =
                    world.read(reader, text(&copy.store), &["--mirror", text(&world.store)]);
                assert_eq!(mirror.status, Some(0), "with a mirror: {told}: {}", mirror.error);
            }
        }
    }
}

#[test]
fn every_damage_in_every_place() {
    let world = World::get();
    let cases: Vec<_> = PLACES
        .into_iter()
        .flat_map(|place| DAMAGES.map(|damage| Case { place, damage, seed: 1 }))
        .collect();
    each(2, cases.len(), |_| Copy::new(world), |copy, i| cases[i].run(world, copy, &READERS));
}

#[test]
fn random_damage() {
    let world = World::get();
    let cases = random_cases() * 2 / 3;
    each(
        2,
        cases,
        |_| Copy::new(world),
        |copy, i| {
            let seed = 1_000_000 + i as u64;
            let mut rng = StdRng::seed_from_u64(seed);
            let (place, damage) =
                (*PLACES.choose(&mut rng).unwrap(), *DAMAGES.choose(&mut rng).unwrap());
            let reader = *READERS.choose(&mut rng).unwrap();
            Case { place, damage, seed }.run(world, copy, &[reader]);
        },
    );
}

/// A client that never saw the newer ref takes the old one, which is right in itself.
#[test]
fn only_who_has_seen_more_can_notice_a_replay() {
    let world = World::get();
    let copy = Copy::new(world);
    fs::write(copy.store.join(REF), &world.old_ref).unwrap();
    let replay = || world.read(Reader::Load, text(&copy.store), &[]);
    let refused = replay();
    assert_eq!(refused.status, Some(4), "{}", refused.error);
    assert!(refused.error.contains("org/model"), "{}", refused.error);
    // Refused again: the refusal changed nothing.
    assert_eq!(replay().status, Some(4));
    copy.restore(world, REF);
    assert_eq!(replay().status, Some(0));
}
