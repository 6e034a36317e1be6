//! The behaviour that every store and every decorator must show, as one suite.
//!
//! A test gives it a way to open an empty store; each check runs on a fresh one. A failed check panics with the
//! store's URL and what was expected.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::{ETag, ObjectKey, PutMode, Storage, StorageError, list_all, list_parallel};

/// What the store under test is known to honour, so that a probe that sees too little or too much is a failure.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Creation is atomic, and the probe must find so.
    pub atomic_create: bool,
    /// Update is atomic, and the probe must find so.
    pub atomic_update: bool,
    /// How many objects to write for listings that must span pages.
    pub listed_objects: usize,
    /// Length of the long upload: several parts where the store has parts.
    pub upload_bytes: usize,
}

impl Expected {
    /// A store that honours both conditional writes.
    pub fn atomic() -> Expected {
        Expected {
            atomic_create: true,
            atomic_update: true,
            listed_objects: 2_300,
            upload_bytes: 36 << 20,
        }
    }

    /// A store that honours neither: the fallback looks before it writes.
    pub fn looks_first() -> Expected {
        Expected {
            atomic_create: false,
            atomic_update: false,
            ..Expected::atomic()
        }
    }
}

/// Runs all checks. `fresh` opens an empty store at each call.
///
/// # Panics
/// When the store misbehaves.
pub async fn run<F, O>(fresh: F, expected: Expected)
where
    F: Fn() -> O,
    O: Future<Output = Arc<dyn Storage>>,
{
    probing(&*fresh().await, expected).await;
    writing(&*probed(fresh().await).await).await;
    racing(probed(fresh().await).await, expected).await;
    reading(&*probed(fresh().await).await).await;
    ordering(&*probed(fresh().await).await).await;
    paging(&*probed(fresh().await).await, expected).await;
    folding(&*probed(fresh().await).await).await;
    deleting(&*probed(fresh().await).await).await;
    uploading(&*probed(fresh().await).await, expected).await;
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).expect("a valid key")
}

fn body(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn probed(storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
    storage.probe(&key("probe")).await.expect("probe");
    storage
}

async fn put(storage: &dyn Storage, name: &str, text: &str) {
    storage
        .put(&key(name), body(text), PutMode::Create)
        .await
        .expect("put");
}

async fn text(storage: &dyn Storage, name: &str) -> String {
    let data = storage.get(&key(name), None).await.expect("get");
    String::from_utf8(data.bytes.to_vec()).expect("text")
}

async fn names(
    storage: &dyn Storage,
    prefix: &str,
    after: Option<&str>,
    before: Option<&str>,
) -> Vec<String> {
    let objects = list_all(storage, prefix, after, before).await.expect("list");
    objects.into_iter().map(|object| object.key.to_string()).collect()
}

async fn probing(storage: &dyn Storage, expected: Expected) {
    let url = storage.url().to_owned();
    assert!(
        !storage.capabilities().atomic_create,
        "{url}: capabilities before the probe"
    );
    let seen = storage.probe(&key("lease/probe")).await.expect("probe");
    assert_eq!(
        seen,
        storage.capabilities(),
        "{url}: the probe's result is remembered"
    );
    assert_eq!(seen.atomic_create, expected.atomic_create, "{url}: atomic create");
    assert_eq!(seen.atomic_update, expected.atomic_update, "{url}: atomic update");
    assert_eq!(
        names(storage, "", None, None).await,
        [""; 0],
        "{url}: the probe cleans up"
    );
}

async fn writing(storage: &dyn Storage) {
    let url = storage.url().to_owned();
    let object = key("a/b.zst");
    put(storage, "a/b.zst", "one").await;
    let again = storage.put(&object, body("two"), PutMode::Create).await;
    assert!(
        matches!(again, Err(StorageError::AlreadyExists { .. })),
        "{url}: create over an object: {again:?}"
    );
    assert_eq!(
        text(storage, "a/b.zst").await,
        "one",
        "{url}: a refused create changes nothing"
    );

    storage
        .put(&object, body("three"), PutMode::Overwrite)
        .await
        .expect("overwrite");
    let read = storage.get(&object, None).await.expect("get");
    assert_eq!(read.bytes, body("three"), "{url}: overwritten");

    let tag = read.etag.expect("a tag");
    let next = storage
        .put(&object, body("four!"), PutMode::Update(tag.clone()))
        .await
        .expect("update");
    assert_eq!(text(storage, "a/b.zst").await, "four!", "{url}: updated");
    let next = next.expect("a tag");
    assert_ne!(next, tag, "{url}: another version, another tag");
    let read = storage.get(&object, None).await.expect("get");
    assert_eq!(
        read.etag,
        Some(next.clone()),
        "{url}: a write returns the tag that a read shows"
    );
    let stale = storage.put(&object, body("five"), PutMode::Update(tag)).await;
    assert!(
        matches!(stale, Err(StorageError::Changed { .. })),
        "{url}: update of an old version: {stale:?}"
    );
    assert_eq!(
        text(storage, "a/b.zst").await,
        "four!",
        "{url}: a refused update changes nothing"
    );
    let absent = storage
        .put(&key("a/none"), body("x"), PutMode::Update(next))
        .await;
    assert!(
        matches!(absent, Err(StorageError::Changed { .. })),
        "{url}: update of nothing: {absent:?}"
    );

    storage
        .put(&key("a/empty"), Bytes::new(), PutMode::Create)
        .await
        .expect("empty object");
    assert_eq!(
        storage.head(&key("a/empty")).await.expect("head").size,
        0,
        "{url}: an empty object"
    );
}

/// Many writers of one key: all see the same object afterwards, and where creation is atomic exactly one wrote it.
async fn racing(storage: Arc<dyn Storage>, expected: Expected) {
    let url = storage.url().to_owned();
    let object = key("race/for/one/key");
    let writers = (0..16).map(|writer| {
        let (storage, object) = (Arc::clone(&storage), object.clone());
        tokio::spawn(async move {
            let content = format!("writer {writer}");
            let put = storage.put(&object, body(&content), PutMode::Create).await;
            (content, put)
        })
    });
    let mut winners = BTreeSet::new();
    for writer in futures::future::join_all(writers).await {
        match writer.expect("the writer does not panic") {
            (content, Ok(_)) => {
                winners.insert(content);
            }
            (_, Err(StorageError::AlreadyExists { .. })) => {}
            (content, Err(other)) => panic!("{url}: {content}: {other:?}"),
        }
    }
    let kept = text(&*storage, object.as_str()).await;
    assert!(winners.contains(&kept), "{url}: {kept} was kept, of {winners:?}");
    if expected.atomic_create {
        assert_eq!(
            winners.len(),
            1,
            "{url}: winners of an atomic create: {winners:?}"
        );
    }
}

async fn reading(storage: &dyn Storage) {
    let url = storage.url().to_owned();
    let object = key("r/object");
    put(storage, "r/object", "0123456789").await;
    for (range, expected) in [
        (0..4, "0123"),
        (3..5, "34"),
        (8..100, "89"),
        (9..10, "9"),
        (0..10, "0123456789"),
    ] {
        let data = storage
            .get(&object, Some(range.clone()))
            .await
            .expect("ranged get");
        assert_eq!(data.bytes, body(expected), "{url}: {range:?}");
        assert_eq!(data.size, 10, "{url}: {range:?}: size of the whole");
        assert!(data.etag.is_some(), "{url}: {range:?}: tag");
    }
    for range in [10..11, 100..200, 3..3] {
        let past = storage.get(&object, Some(range.clone())).await;
        assert!(
            matches!(past, Err(StorageError::InvalidRange { .. })),
            "{url}: {range:?}: {past:?}"
        );
    }
    let whole = storage.get(&object, None).await.expect("get");
    assert_eq!((whole.bytes, whole.size), (body("0123456789"), 10), "{url}");
    let meta = storage.head(&object).await.expect("head");
    assert_eq!((meta.key, meta.size), (object, 10), "{url}: head");
    assert!(
        meta.modified.0 > 1_600_000_000_000_000,
        "{url}: modified {}",
        meta.modified
    );
    for absent in ["r", "r/obj", "r/object/below", "none/at/all"] {
        let got = storage.get(&key(absent), None).await;
        assert!(
            got.as_ref().is_err_and(StorageError::is_not_found),
            "{url}: get {absent}: {got:?}"
        );
        let head = storage.head(&key(absent)).await;
        assert!(
            head.as_ref().is_err_and(StorageError::is_not_found),
            "{url}: head {absent}: {head:?}"
        );
    }
}

/// Keys in the order of their bytes: `-` and `.` come before `/`, digits and letters after it.
const ORDERED: [&str; 12] = [
    "log/0/1",
    "log/a-b",
    "log/a-b-/x",
    "log/a.b",
    "log/a/1",
    "log/a/b/c/d",
    "log/a/b0",
    "log/a/z",
    "log/a0",
    "log/aZ/1",
    "log/ab/1",
    "logs/x",
];

async fn ordering(storage: &dyn Storage) {
    let url = storage.url().to_owned();
    for name in ORDERED.iter().rev() {
        put(storage, name, name).await;
    }
    assert_eq!(names(storage, "", None, None).await, ORDERED, "{url}: everything");
    for prefix in [
        "log",
        "log/",
        "log/a",
        "log/a/",
        "log/a-",
        "log/a/b",
        "log/a/b/c/d",
        "x",
        "log/a/b/c/d/e",
        "lo",
    ] {
        let expected: Vec<_> = ORDERED
            .into_iter()
            .filter(|name| name.starts_with(prefix))
            .collect();
        assert_eq!(
            names(storage, prefix, None, None).await,
            expected,
            "{url}: prefix {prefix}"
        );
        for after in [
            "a",
            "log/a",
            "log/a-b",
            "log/a/",
            "log/a/b",
            "log/a/b/",
            "log/a/b/c/dd",
            "log/a0",
            "zzz",
        ] {
            let expected: Vec<_> = expected.iter().filter(|name| **name > after).collect();
            let got = names(storage, prefix, Some(after), None).await;
            assert_eq!(
                got.iter().collect::<Vec<_>>(),
                expected,
                "{url}: prefix {prefix} after {after}"
            );
        }
    }
    let some = names(storage, "log/", Some("log/a-b"), Some("log/a/z")).await;
    assert_eq!(some, ORDERED[2..7], "{url}: an end is not part of the range");
}

async fn paging(storage: &dyn Storage, expected: Expected) {
    let url = storage.url().to_owned();
    let all: Vec<String> = (0..expected.listed_objects)
        .map(|number| format!("servers/shop/log/{:08}-x.zst", number * 3))
        .collect();
    let puts = all.iter().map(|name| put(storage, name, ""));
    let mut puts = futures::stream::StreamExt::buffer_unordered(futures::stream::iter(puts), 32);
    while futures::stream::StreamExt::next(&mut puts).await.is_some() {}
    assert_eq!(
        names(storage, "servers/", None, None).await,
        all,
        "{url}: all pages"
    );
    let middle = all.len() / 2;
    let rest = names(storage, "servers/", Some(&all[middle]), None).await;
    assert_eq!(rest, all[middle + 1..], "{url}: after the middle");
    let boundaries: Vec<String> = (1..5).map(|at| all[at * all.len() / 5].clone()).collect();
    let parallel = list_parallel(storage, "servers/", None, &boundaries)
        .await
        .expect("parallel list");
    let parallel: Vec<_> = parallel
        .into_iter()
        .map(|object| object.key.to_string())
        .collect();
    assert_eq!(
        parallel, all,
        "{url}: ranges listed in parallel join without hole or overlap"
    );
    let keys: Vec<_> = all.iter().map(|name| key(name)).collect();
    storage
        .delete(&keys)
        .await
        .expect("delete of more than one batch");
    assert_eq!(
        names(storage, "", None, None).await,
        [""; 0],
        "{url}: all deleted"
    );
}

async fn folding(storage: &dyn Storage) {
    let url = storage.url().to_owned();
    for name in ["s/a/1", "s/a/2/x", "s/a-b/1", "s/file", "s/z/y/x/w", "t/1"] {
        put(storage, name, "").await;
    }
    assert_eq!(storage.folders("").await.expect("folders"), ["s", "t"], "{url}");
    assert_eq!(
        storage.folders("s/").await.expect("folders"),
        ["a", "a-b", "z"],
        "{url}"
    );
    assert_eq!(storage.folders("s/a/").await.expect("folders"), ["2"], "{url}");
    assert_eq!(storage.folders("none/").await.expect("folders"), [""; 0], "{url}");
    storage.delete(&[key("s/z/y/x/w")]).await.expect("delete");
    assert_eq!(
        storage.folders("s/").await.expect("folders"),
        ["a", "a-b"],
        "{url}: an emptied folder is gone"
    );
    // Told in one pass or not at all.
    let mut seen = BTreeSet::new();
    let visited = storage.visit_folder("s/", &mut |name, size| {
        seen.insert((name.to_owned(), size));
    });
    if let Some(visited) = visited {
        visited.expect("visit a folder");
        let listed = storage.list("s/", None).await.expect("list");
        let direct = listed
            .objects
            .iter()
            .map(|object| (object.key.as_str(), object.size));
        let direct = direct.filter_map(|(key, size)| Some((key.strip_prefix("s/")?, size)));
        let direct = direct.filter(|(name, _)| !name.contains('/'));
        assert_eq!(seen, direct.map(|(name, size)| (name.to_owned(), size)).collect());
        let mut nothing = true;
        let missing = storage.visit_folder("missing/", &mut |_, _| nothing = false);
        assert!(missing.is_some_and(|missing| missing.is_ok()) && nothing);
    }
}

async fn deleting(storage: &dyn Storage) {
    let url = storage.url().to_owned();
    for name in ["d/1", "d/2", "d/e/f/3"] {
        put(storage, name, name).await;
    }
    storage
        .delete(&[
            key("d/1"),
            key("d/none"),
            key("d/e/f/3"),
            key("none/at/all"),
            key("d/2/below"),
        ])
        .await
        .expect("deleting what is not there is no error");
    assert_eq!(names(storage, "", None, None).await, ["d/2"], "{url}");
    storage.delete(&[]).await.expect("nothing to delete");
    put(storage, "d/1", "again").await;
    assert_eq!(
        text(storage, "d/1").await,
        "again",
        "{url}: a deleted key can be created again"
    );
}

async fn uploading(storage: &dyn Storage, expected: Expected) {
    let url = storage.url().to_owned();
    let long = pattern(expected.upload_bytes);
    let mut upload = storage.upload(&key("u/long")).await.expect("upload");
    // Pieces of odd sizes, so that parts end within pieces.
    for piece in long.chunks(5_000_011) {
        upload.write(Bytes::copy_from_slice(piece)).await.expect("write");
    }
    let early = storage.head(&key("u/long")).await;
    assert!(
        early.is_err_and(|error| error.is_not_found()),
        "{url}: nothing is visible before the end"
    );
    upload.complete().await.expect("complete");
    let read = storage.get(&key("u/long"), None).await.expect("get");
    assert!(read.bytes == long, "{url}: the long upload reads back");
    let half = u64::try_from(long.len() / 2).expect("a length");
    let tail = storage
        .get(&key("u/long"), Some(half..u64::MAX))
        .await
        .expect("tail");
    assert!(
        tail.bytes == long[long.len() / 2..],
        "{url}: the tail of the long upload"
    );

    for (name, pieces) in [("u/empty", [""; 2]), ("u/short", ["sh", "ort"])] {
        let mut upload = storage.upload(&key(name)).await.expect("upload");
        for piece in pieces {
            upload.write(body(piece)).await.expect("write");
        }
        upload.complete().await.expect("complete");
        assert_eq!(text(storage, name).await, pieces.concat(), "{url}: {name}");
    }
    let mut upload = storage.upload(&key("u/short")).await.expect("upload");
    upload.write(body("replaced")).await.expect("write");
    upload.complete().await.expect("complete");
    assert_eq!(
        text(storage, "u/short").await,
        "replaced",
        "{url}: an upload replaces"
    );

    let mut upload = storage.upload(&key("u/aborted")).await.expect("upload");
    upload.write(long.clone()).await.expect("write");
    upload.abort().await.expect("abort");
    let got = storage.head(&key("u/aborted")).await;
    assert!(
        got.is_err_and(|error| error.is_not_found()),
        "{url}: an aborted upload leaves nothing"
    );

    let read = storage.get(&key("u/short"), None).await.expect("get");
    let update = PutMode::Update(read.etag.unwrap_or(ETag(String::new())));
    storage
        .put(&key("u/short"), body("updated"), update)
        .await
        .expect("update of an uploaded object");
    assert_eq!(text(storage, "u/short").await, "updated", "{url}");
}

/// Bytes in which every 8-byte word is another, so that parts in the wrong order are seen.
fn pattern(length: usize) -> Bytes {
    let words = (0_u64..).flat_map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    words.take(length).collect::<Vec<u8>>().into()
}
