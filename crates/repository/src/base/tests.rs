//! Whole backups against a model: each file of the database is a plain vector of bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::executor::block_on;
use proptest::prelude::*;
use serde_json::json;
use tidemark_storage::{MemoryStorage, Storage};
use tidemark_types::{ErrorClass, Generation, Timestamp};

use super::*;
use crate::error::RepositoryError;
use crate::layout::Layout;

const KEY: HashKey = HashKey([5; 32]);
const PAGE: usize = 64;
const FRAME: usize = 4 * PAGE;
const START: Timestamp = Timestamp(1_795_269_780_000_000);

type Files = BTreeMap<String, Vec<u8>>;

fn new_store() -> (Arc<MemoryStorage>, BaseStore) {
    let storage = Arc::new(MemoryStorage::new());
    let layout = Layout::new(&"shop".parse().unwrap(), Generation(1));
    (storage.clone(), BaseStore::new(storage, layout, KEY))
}

fn intent(number: u32, parent: Option<&Arc<BackupReader>>) -> Intent {
    Intent {
        backup: BackupId::new(START, number),
        parent: parent.map(|parent| parent.header().backup.clone()),
        host: "db1".to_owned(),
        boot: "b".to_owned(),
        process: 1,
        started: START,
        refreshed: START,
    }
}

fn facts() -> BackupFacts {
    let position = |offset| LogPosition {
        branch: 1,
        file: 2,
        offset,
        text: format!("0/{offset:X}"),
    };
    BackupFacts {
        engine: "postgresql".to_owned(),
        server_version: "17.11".to_owned(),
        begin: position(40),
        end: position(400),
        started: START,
        stopped: START,
        engine_facts: json!({ "backup_label": "START WAL LOCATION" }),
    }
}

fn meta(path: &str) -> FileMeta {
    FileMeta {
        path: path.to_owned(),
        kind: EntryKind::File,
        mode: 0o600,
        modified: START,
        tag: None,
    }
}

fn encode(buffer: &FrameBuffer) -> EncodedFrame {
    FrameEncoder::new(KEY, 3).unwrap().encode(buffer).unwrap()
}

/// Feeds runs of bytes of files to a writer the way an agent does, with two sinks and small packs.
struct Feeder {
    writer: BackupWriter,
    sinks: [PackSink; 2],
    buffer: FrameBuffer,
    frames: usize,
}

impl Feeder {
    async fn begin(store: &BaseStore, number: u32, parent: Option<&Arc<BackupReader>>) -> Feeder {
        let intent = intent(number, parent);
        let writer = BackupWriter::begin(store.clone(), intent, parent.cloned(), |_| false)
            .await
            .unwrap();
        let sinks = [writer.pack_sink(700), writer.pack_sink(700)];
        Feeder {
            writer,
            sinks,
            buffer: FrameBuffer::new(FRAME, PAGE),
            frames: 0,
        }
    }

    async fn give(&mut self, file: FileId, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let taken = self.buffer.push(file, offset, bytes);
            if taken == 0 {
                self.flush().await;
                continue;
            }
            offset += taken as u64;
            bytes = &bytes[taken..];
        }
    }

    async fn flush(&mut self) {
        if !self.buffer.is_empty() {
            let placed = self.sinks[self.frames % 2]
                .append(encode(&self.buffer))
                .await
                .unwrap();
            self.writer.place(placed).await.unwrap();
            self.frames += 1;
            self.buffer.clear();
        }
    }

    async fn finish(mut self) -> Result<BackupHeader, RepositoryError> {
        self.flush().await;
        let mut packs = Vec::new();
        for sink in self.sinks {
            packs.extend(sink.finish().await?);
        }
        self.writer.finish(packs, facts()).await
    }
}

async fn full(store: &BaseStore, number: u32, files: &Files) -> Arc<BackupReader> {
    let mut feeder = Feeder::begin(store, number, None).await;
    feeder.writer.add_path(FileMeta {
        kind: EntryKind::Directory,
        ..meta("")
    });
    for (path, bytes) in files {
        let file = feeder.writer.begin_file(meta(path));
        let len = bytes.len() as u64;
        feeder.writer.end_file(file, len, len).await.unwrap();
        feeder.give(file, 0, bytes).await;
    }
    let header = feeder.finish().await.unwrap();
    Arc::new(BackupReader::open(store.clone(), &header.backup).await.unwrap())
}

/// Which pages of `now` differ from what the parent stored, by hash.
async fn changed_pages(hashes: &mut PageHashReader, entry: &FileEntry, now: &[u8]) -> Vec<usize> {
    let mut old = Vec::new();
    for part in &entry.parts {
        old.extend(hashes.of_part(part, PAGE).await.unwrap());
    }
    let pages = now.chunks(PAGE).enumerate();
    let differs =
        |page: &usize, bytes: &[u8]| old.get(*page).copied().flatten() != Some(PageHash::of(&KEY, bytes));
    pages
        .filter(|(page, bytes)| differs(page, bytes))
        .map(|(page, _)| page)
        .collect()
}

async fn incremental(
    store: &BaseStore,
    number: u32,
    parent: &Arc<BackupReader>,
    files: &Files,
) -> Arc<BackupReader> {
    let old: BTreeMap<String, FileEntry> = parent
        .manifest()
        .files()
        .map(|file| file.map(|file| (file.meta.path.clone(), file)).unwrap())
        .collect();
    let mut hashes = PageHashReader::new(parent.clone());
    let mut feeder = Feeder::begin(store, number, Some(parent)).await;
    for (path, bytes) in files {
        let Some(entry) = old.get(path) else {
            let file = feeder.writer.begin_file(meta(path));
            feeder.give(file, 0, bytes).await;
            feeder
                .writer
                .end_file(file, bytes.len() as u64, bytes.len() as u64)
                .await
                .unwrap();
            continue;
        };
        let changed = changed_pages(&mut hashes, entry, bytes).await;
        if changed.is_empty() && entry.size == bytes.len() as u64 {
            feeder.writer.keep_unchanged(meta(path), entry).unwrap();
            continue;
        }
        let file = feeder.writer.begin_overlay(meta(path), entry.clone());
        let mut given = 0;
        for page in changed {
            let begin = page * PAGE;
            let page = &bytes[begin..(begin + PAGE).min(bytes.len())];
            feeder.give(file, begin as u64, page).await;
            given += page.len() as u64;
        }
        feeder
            .writer
            .end_file(file, bytes.len() as u64, given)
            .await
            .unwrap();
    }
    let header = feeder.finish().await.unwrap();
    assert_eq!(header.kind, BackupKind::Incremental);
    Arc::new(BackupReader::open(store.clone(), &header.backup).await.unwrap())
}

async fn restore(storage: &dyn Storage, reader: &BackupReader) -> Result<Files, RepositoryError> {
    let limits = RestoreLimits {
        batch_extents: 20,
        fetch_len: 600,
        gap_len: 100,
    };
    let mut decoder = FrameDecoder::new(KEY)?;
    let mut restored = Files::new();
    let mut files = reader.manifest().files();
    while let Some(batch) = reader.next_batch(&mut files, &limits).await? {
        let mut contents: Vec<Vec<u8>> = batch
            .files
            .iter()
            .map(|file| vec![0; file.size as usize])
            .collect();
        for fetch in &batch.fetches {
            let fetched = batch.read(storage, fetch).await?;
            for used in &fetch.frames {
                let plain = batch.decode(&mut decoder, fetch, &fetched, used)?;
                for write in &used.writes {
                    let begin = write.offset as usize;
                    contents[write.file as usize][begin..begin + write.len as usize]
                        .copy_from_slice(write.bytes(plain));
                }
            }
        }
        for (file, bytes) in batch.files.iter().zip(contents) {
            if file.meta.kind == EntryKind::File {
                restored.insert(file.meta.path.clone(), bytes);
            }
        }
    }
    Ok(restored)
}

fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (i.wrapping_mul(31) ^ (i / PAGE * 7) ^ (seed * 13)) as u8)
        .collect()
}

fn sample_files() -> Files {
    let sizes = [
        ("PG_VERSION", 3),
        ("base/5/1259", 20 * PAGE),
        ("base/5/2619_vm", PAGE),
        ("empty", 0),
    ];
    sizes
        .iter()
        .enumerate()
        .map(|(n, (path, len))| ((*path).to_owned(), pattern(*len, n)))
        .collect()
}

#[test]
fn a_full_backup_restores_and_is_listed() {
    block_on(async {
        let (storage, store) = new_store();
        let files = sample_files();
        let reader = full(&store, 1, &files).await;
        assert_eq!(restore(&*storage, &reader).await.unwrap(), files);
        let listed = list_backups(&store).await.unwrap().backups;
        assert_eq!(listed, [reader.header().clone()]);
        assert_eq!(
            (listed[0].totals.files, listed[0].totals.bytes),
            (4, 3 + 21 * PAGE as u64)
        );
        assert_eq!(live_intents(&store, START).await.unwrap(), []);
        assert_eq!(listed[0].facts, facts());
    });
}

#[test]
fn a_pack_is_a_zstd_stream_of_the_files_bytes() {
    block_on(async {
        let (storage, store) = new_store();
        let files: Files = [("one".to_owned(), pattern(3 * PAGE, 1))].into();
        let reader = full(&store, 1, &files).await;
        let pack = storage
            .get(&store.pack(&reader.manifest().packs()[0].id), None)
            .await
            .unwrap();
        assert_eq!(zstd::stream::decode_all(&pack.bytes[..]).unwrap(), files["one"]);
    });
}

#[test]
fn an_incremental_stores_the_changed_pages_only() {
    block_on(async {
        let (storage, store) = new_store();
        let mut files = sample_files();
        let first = full(&store, 1, &files).await;
        files.get_mut("base/5/1259").unwrap()[5 * PAGE + 3] ^= 1;
        let second = incremental(&store, 2, &first, &files).await;
        assert_eq!(second.header().totals.new_bytes, PAGE as u64);
        assert_eq!(restore(&*storage, &second).await.unwrap(), files);
        let unchanged = |reader: &BackupReader| {
            let file = reader
                .manifest()
                .files()
                .map(Result::unwrap)
                .find(|file| file.meta.path == "PG_VERSION");
            let part = file.unwrap().parts[0];
            reader.manifest().maps()[part.map as usize].id.clone()
        };
        assert_eq!(
            unchanged(&second),
            unchanged(&first),
            "an unchanged file shares its parent's map"
        );
        let live = second.liveness().await.unwrap();
        let packs = second.manifest().packs();
        let own = packs
            .iter()
            .position(|pack| pack.id.backup == second.header().backup)
            .unwrap();
        assert!(live.live_bytes(own as u32) > 0);
        let all: u64 = (0..packs.len()).map(|pack| live.live_bytes(pack as u32)).sum();
        assert!(all < packs.iter().map(|pack| pack.size).sum());
    });
}

#[test]
fn a_second_running_backup_is_refused_until_the_first_is_stale_or_dead() {
    block_on(async {
        let (_, store) = new_store();
        let first = BackupWriter::begin(store.clone(), intent(1, None), None, |_| false)
            .await
            .unwrap();
        let error = BackupWriter::begin(store.clone(), intent(2, None), None, |_| false)
            .await
            .unwrap_err();
        assert_eq!(error.class(), ErrorClass::Conflict);
        assert!(
            error
                .to_string()
                .contains("is running on db1 since 2026-11-21T14:03:00Z"),
            "{error}"
        );
        assert_eq!(live_intents(&store, START).await.unwrap().len(), 1);

        let dead = BackupWriter::begin(store.clone(), intent(3, None), None, |_| true)
            .await
            .unwrap();
        dead.abandon().await.unwrap();
        let mut late = intent(4, None);
        late.refreshed = START.plus(INTENT_LIFE);
        let late = BackupWriter::begin(store.clone(), late, None, |_| false)
            .await
            .unwrap();
        late.abandon().await.unwrap();
        first.abandon().await.unwrap();
        assert_eq!(live_intents(&store, START).await.unwrap(), []);
    });
}

#[test]
fn a_backup_that_was_given_up_leaves_nothing() {
    block_on(async {
        let (storage, store) = new_store();
        let mut feeder = Feeder::begin(&store, 1, None).await;
        let file = feeder.writer.begin_file(meta("one"));
        feeder.give(file, 0, &pattern(100 * PAGE, 1)).await;
        feeder.flush().await;
        assert!(storage.keys().len() > 1);
        for sink in feeder.sinks {
            sink.abort().await.unwrap();
        }
        feeder.writer.abandon().await.unwrap();
        assert_eq!(storage.keys(), Vec::<String>::new());
    });
}

#[test]
fn a_file_with_missing_bytes_is_never_committed() {
    block_on(async {
        let (_, store) = new_store();
        let mut feeder = Feeder::begin(&store, 1, None).await;
        let file = feeder.writer.begin_file(meta("one"));
        feeder.give(file, 0, &[1; 10]).await;
        feeder.writer.end_file(file, 20, 20).await.unwrap();
        let error = feeder.finish().await.unwrap_err();
        assert!(
            error.to_string().contains("miss bytes, one among them"),
            "{error}"
        );
        assert_eq!(list_backups(&store).await.unwrap().backups, []);
    });
}

#[test]
fn files_are_taken_back_and_renamed_whether_their_bytes_have_landed_or_not() {
    block_on(async {
        let (storage, store) = new_store();
        let mut feeder = Feeder::begin(&store, 1, None).await;
        for (path, seed) in [("a", 1), ("b", 2), ("c", 3)] {
            let (file, bytes) = (feeder.writer.begin_file(meta(path)), pattern(PAGE, seed));
            feeder.give(file, 0, &bytes).await;
            feeder
                .writer
                .end_file(file, PAGE as u64, PAGE as u64)
                .await
                .unwrap();
            match path {
                // Still in the buffer.
                "a" => feeder.writer.take_back(file),
                "b" => feeder.writer.rename(file, "d".to_owned()),
                _ => {
                    feeder.flush().await;
                    feeder.writer.take_back(file);
                }
            }
        }
        let header = feeder.finish().await.unwrap();
        assert_eq!((header.totals.files, header.totals.bytes), (1, PAGE as u64));
        let reader = BackupReader::open(store.clone(), &header.backup).await.unwrap();
        let expected: Files = [("d".to_owned(), pattern(PAGE, 2))].into();
        assert_eq!(restore(&*storage, &reader).await.unwrap(), expected);
    });
}

#[test]
fn bytes_past_the_parents_end_must_be_given() {
    block_on(async {
        let (_, store) = new_store();
        let parent = full(&store, 1, &[("one".to_owned(), pattern(2 * PAGE, 1))].into()).await;
        let entry = parent
            .manifest()
            .files()
            .map(Result::unwrap)
            .find(|file| file.meta.path == "one")
            .unwrap();
        let mut feeder = Feeder::begin(&store, 2, Some(&parent)).await;
        let file = feeder.writer.begin_overlay(meta("one"), entry);
        let error = feeder
            .writer
            .end_file(file, 3 * PAGE as u64, 0)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("one: bytes 128..192 were not given"),
            "{error}"
        );
    });
}

#[test]
fn zeros_are_stored_nowhere() {
    block_on(async {
        let (storage, store) = new_store();
        let mut feeder = Feeder::begin(&store, 1, None).await;
        let file = feeder.writer.begin_file(meta("sparse"));
        feeder.writer.add_zeros(file, 0, 5 << 30).await.unwrap();
        feeder.give(file, 5 << 30, &[7; PAGE]).await;
        let size = (5 << 30) + PAGE as u64;
        feeder.writer.end_file(file, size, size).await.unwrap();
        let header = feeder.finish().await.unwrap();
        let reader = Arc::new(BackupReader::open(store, &header.backup).await.unwrap());
        let limits = RestoreLimits::default();
        let batch = reader
            .next_batch(&mut reader.manifest().files(), &limits)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(batch.zeros.iter().map(|zero| zero.len).sum::<u64>(), 5 << 30);
        assert_eq!(batch.fetches.len(), 1);
        assert_eq!(batch.fetches[0].frames[0].writes[0].offset, 5 << 30);
        let bytes = batch.read(&*storage, &batch.fetches[0]).await.unwrap();
        let mut decoder = FrameDecoder::new(KEY).unwrap();
        let plain = batch
            .decode(
                &mut decoder,
                &batch.fetches[0],
                &bytes,
                &batch.fetches[0].frames[0],
            )
            .unwrap();
        assert_eq!(plain, [7; PAGE]);
    });
}

#[test]
fn damage_names_object_frame_and_files() {
    block_on(async {
        let (storage, store) = new_store();
        let reader = full(
            &store,
            1,
            &[("base/5/1259".to_owned(), pattern(2 * PAGE, 1))].into(),
        )
        .await;
        let pack = store.pack(&reader.manifest().packs()[0].id);
        assert!(storage.tamper(pack.as_str(), |bytes| bytes[200] ^= 1));
        let error = restore(&*storage, &reader).await.unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt);
        let text = error.to_string();
        assert!(text.contains("/pack-0000.zst is damaged: frame 0 at "), "{text}");
        assert!(
            text.ends_with("without it base/5/1259 cannot be restored"),
            "{text}"
        );

        storage.delete(std::slice::from_ref(&pack)).await.unwrap();
        let text = restore(&*storage, &reader).await.unwrap_err().to_string();
        assert!(text.contains("it is missing; without it base/5/1259"), "{text}");
        let error = BackupWriter::begin(store, intent(2, Some(&reader)), Some(reader), |_| false)
            .await
            .unwrap_err();
        assert_eq!(error.class(), ErrorClass::Corrupt);
    });
}

#[test]
fn one_damaged_manifest_does_not_hide_the_other_backups() {
    block_on(async {
        let (storage, store) = new_store();
        let first = full(&store, 1, &sample_files()).await;
        let second = full(&store, 2, &sample_files()).await;
        let damaged = &second.header().backup;
        assert!(storage.tamper(store.manifest(damaged).as_str(), |bytes| bytes[20] ^= 1));
        let list = list_backups(&store).await.unwrap();
        assert_eq!(list.backups, [first.header().clone()]);
        let unreadable: Vec<(&BackupId, ErrorClass)> = list
            .unreadable
            .iter()
            .map(|(backup, error)| (backup, error.class()))
            .collect();
        assert_eq!(unreadable, [(damaged, ErrorClass::Corrupt)]);
    });
}

#[test]
fn a_header_is_read_from_the_front_of_a_large_manifest() {
    block_on(async {
        let (storage, store) = new_store();
        let mut feeder = Feeder::begin(&store, 1, None).await;
        for number in 0u32..20_000 {
            let name = blake3::hash(&number.to_le_bytes()).to_hex();
            feeder.writer.add_path(FileMeta {
                kind: EntryKind::Directory,
                ..meta(&name)
            });
        }
        let header = feeder.finish().await.unwrap();
        let size = storage.head(&store.manifest(&header.backup)).await.unwrap().size;
        assert!(size > 500_000, "{size}");
        assert_eq!(read_header(&store, &header.backup).await.unwrap(), Some(header));
    });
}

/// One change to the database between two backups.
#[derive(Debug, Clone)]
enum Change {
    Write {
        file: usize,
        at: prop::sample::Index,
        to: u8,
    },
    Resize {
        file: usize,
        len: usize,
    },
    Drop {
        file: usize,
    },
}

const NAMES: [&str; 4] = ["a", "b/1", "b/2", "c"];

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => (0..NAMES.len(), any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(file, at, to)| Change::Write { file, at, to }),
        2 => (0..NAMES.len(), 0usize..30 * PAGE).prop_map(|(file, len)| Change::Resize { file, len }),
        1 => (0..NAMES.len()).prop_map(|file| Change::Drop { file }),
    ]
}

fn apply(files: &mut Files, change: &Change, round: usize) {
    match change {
        Change::Write { file, at, to } => {
            if let Some(bytes) = files.get_mut(NAMES[*file]).filter(|bytes| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = *to;
            }
        }
        Change::Resize { file, len } => {
            let bytes = files.entry(NAMES[*file].to_owned()).or_default();
            let grown = pattern(*len, round);
            let kept = bytes.len().min(*len);
            bytes.resize(*len, 0);
            bytes[kept..].copy_from_slice(&grown[kept..]);
        }
        Change::Drop { file } => {
            files.remove(NAMES[*file]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_backup_of_a_chain_restores_what_was_there(
        sizes in proptest::collection::vec(0usize..30 * PAGE, NAMES.len()),
        rounds in proptest::collection::vec(proptest::collection::vec(change(), 0..12), 1..5),
    ) {
        block_on(async {
            let (storage, store) = new_store();
            let mut files: Files =
                NAMES.iter().zip(sizes).map(|(name, len)| ((*name).to_owned(), pattern(len, 0))).collect();
            let mut taken = vec![(full(&store, 0, &files).await, files.clone())];
            for (round, changes) in rounds.iter().enumerate() {
                for change in changes {
                    apply(&mut files, change, round + 1);
                }
                let parent = taken.last().unwrap().0.clone();
                let reader = incremental(&store, round as u32 + 1, &parent, &files).await;
                taken.push((reader, files.clone()));
            }
            for (reader, files) in &taken {
                reader.check_objects().await.unwrap();
                assert_eq!(&restore(&*storage, reader).await.unwrap(), files);
            }
        });
    }

    #[test]
    fn a_tampered_manifest_never_panics_and_a_cut_one_is_refused(at: prop::sample::Index, to: u8) {
        let plain = sample_manifest();
        let at = at.index(plain.len() - 1);
        prop_assert!(Manifest::decode("manifest.zst", plain[..at].to_vec()).is_err());
        let mut changed = plain;
        changed[at] = to;
        if let Ok(manifest) = Manifest::decode("manifest.zst", changed) {
            prop_assert!(manifest.files().count() <= 2);
        }
    }
}

fn sample_manifest() -> Vec<u8> {
    let id = PartId {
        backup: BackupId::new(START, 1),
        number: 0,
    };
    let pack = PackEntry {
        id: id.clone(),
        size: 1000,
        frames: 2,
        hashes: 900,
        object_id: "00".repeat(16),
        salt: None,
        key_id: None,
    };
    let parts = vec![PartRef {
        map: 0,
        offset: 0,
        len: 30,
    }];
    let content = manifest::ManifestContent {
        backup: id.backup.clone(),
        kind: BackupKind::Full,
        parent: None,
        totals: Totals::default(),
        facts: facts(),
        packs: vec![pack],
        maps: vec![MapEntry {
            id,
            size: 100,
            packs: vec![0],
        }],
        files: ["b", "a"]
            .map(|path| FileEntry {
                meta: meta(path),
                size: 5,
                parts: parts.clone(),
            })
            .into(),
    };
    content.encode().unwrap().1
}

#[test]
fn a_manifest_lists_its_files_by_path() {
    let manifest = Manifest::decode("manifest.zst", sample_manifest()).unwrap();
    let paths: Vec<String> = manifest.files().map(|file| file.unwrap().meta.path).collect();
    assert_eq!(paths, ["a", "b"]);
}
