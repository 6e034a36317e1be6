//! What only a directory can get wrong: order across folders, crashes, a full or forbidden disk, concurrent deletes.

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::*;
use crate::list_all;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

async fn put(storage: &FileStorage, name: &str) {
    let body = Bytes::copy_from_slice(name.as_bytes());
    storage.put(&key(name), body, PutMode::Create).await.unwrap();
}

/// An error as a user reads it: with all its causes.
fn rendered(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn names(storage: &FileStorage, prefix: &str, after: Option<&str>) -> Vec<String> {
    let objects = list_all(storage, prefix, after, None).await.unwrap();
    objects.into_iter().map(|object| object.key.to_string()).collect()
}

#[tokio::test]
async fn tiny_pages_show_every_key_once_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(dir.path()).await.unwrap();
    let mut expected = Vec::new();
    for folder in ["a", "a-b", "a/b", "a/b-c/d", "a0", "b"] {
        for number in 0..7 {
            expected.push(format!("{folder}/{number}.zst"));
        }
    }
    for name in &expected {
        put(&storage, name).await;
    }
    expected.sort_unstable();
    for page in [1, 2, 3, 5, 100] {
        let storage = FileStorage::open(dir.path()).await.unwrap().with_page_size(page);
        assert_eq!(names(&storage, "", None).await, expected, "{page}");
        for (at, after) in expected.iter().enumerate() {
            assert_eq!(
                names(&storage, "", Some(after)).await,
                expected[at + 1..],
                "{page} after {after}"
            );
        }
    }
}

#[tokio::test]
async fn folders_outside_the_bounds_are_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(dir.path()).await.unwrap();
    for name in ["s/a/1", "s/b/1", "s/c/1", "t/1"] {
        put(&storage, name).await;
    }
    // A loop of links would never end, were it entered.
    for folder in ["s/a", "t"] {
        std::os::unix::fs::symlink(".", dir.path().join(folder).join("loop")).unwrap();
    }
    assert_eq!(names(&storage, "s/", Some("s/b")).await, ["s/b/1", "s/c/1"]);
    assert_eq!(names(&storage, "s/c", None).await, ["s/c/1"]);
}

#[tokio::test]
async fn files_that_are_no_objects_are_not_listed() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(dir.path()).await.unwrap();
    put(&storage, "s/1").await;
    fs::create_dir(dir.path().join("lost+found")).unwrap();
    fs::write(dir.path().join("lost+found/x"), "").unwrap();
    fs::write(dir.path().join("s/name with space"), "").unwrap();
    fs::create_dir_all(dir.path().join("s/empty/folder")).unwrap();
    assert!(dir.path().join(temp::FOLDER).exists());
    assert_eq!(names(&storage, "", None).await, ["s/1"]);
    assert_eq!(storage.folders("").await.unwrap(), ["s"]);
    assert_eq!(storage.folders("s/").await.unwrap(), [""; 0]);
    for outside in ["../", "/etc/", "s/../../", "s//"] {
        assert_eq!(names(&storage, outside, None).await, [""; 0], "{outside}");
        assert_eq!(storage.folders(outside).await.unwrap(), [""; 0], "{outside}");
    }
}

#[tokio::test]
async fn leftovers_of_crashed_writers_are_cleared_and_live_uploads_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(dir.path()).await.unwrap();
    let mut live = storage.upload(&key("live")).await.unwrap();
    live.write(Bytes::from_static(b"half")).await.unwrap();
    let folder = dir.path().join(temp::FOLDER);
    let old = SystemTime::now() - Duration::from_secs(7200);
    fs::write(folder.join("old"), "crashed").unwrap();
    fs::write(folder.join("young"), "crashed").unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("young") {
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(old).unwrap();
        }
    }
    // Locks belong to open files, so this opening is as good as another process.
    let other = FileStorage::open(dir.path()).await.unwrap();
    assert!(!folder.join("old").exists());
    assert!(folder.join("young").exists());
    other.probe(&key("lease")).await.unwrap();
    live.complete().await.unwrap();
    assert_eq!(storage.get(&key("live"), None).await.unwrap().bytes, "half");
}

#[tokio::test]
async fn an_upload_that_is_dropped_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(dir.path()).await.unwrap();
    let mut upload = storage.upload(&key("a/b")).await.unwrap();
    upload.write(Bytes::from_static(b"half")).await.unwrap();
    drop(upload);
    let left = fs::read_dir(dir.path().join(temp::FOLDER)).unwrap().count();
    assert_eq!(left, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_put_survives_deletes_that_take_its_folder_away() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(FileStorage::open(dir.path()).await.unwrap());
    let tasks = (0..4).map(|task| {
        let storage = Arc::clone(&storage);
        tokio::spawn(async move {
            for round in 0..100 {
                let name = format!("a/b/c/d/{task}-{round}");
                put(&storage, &name).await;
                assert_eq!(storage.get(&key(&name), None).await.unwrap().bytes, name);
                storage.delete(&[key(&name)]).await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert!(!dir.path().join("a").exists(), "emptied folders are removed");
    assert!(dir.path().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_updates_of_one_version_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let storage = Arc::new(FileStorage::open(dir.path()).await.unwrap());
    let object = key("lease/shop.json");
    let mut tag = storage
        .put(&object, Bytes::new(), PutMode::Create)
        .await
        .unwrap()
        .unwrap();
    for round in 0..20 {
        let tasks = (0..8).map(|_| {
            let (storage, object, tag) = (Arc::clone(&storage), object.clone(), tag.clone());
            tokio::spawn(async move { storage.put(&object, Bytes::new(), PutMode::Update(tag)).await })
        });
        let mut won = Vec::new();
        for task in tasks.collect::<Vec<_>>() {
            match task.await.unwrap() {
                Ok(new) => won.push(new.unwrap()),
                Err(StorageError::Changed { .. }) => {}
                Err(other) => panic!("{}", rendered(&other)),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        assert_ne!(won[0], tag);
        tag = won.remove(0);
    }
}

#[tokio::test]
async fn a_file_system_that_cannot_rename_without_replacing_gets_links() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(dir.path()).await.unwrap();
    let mut temp = TempFile::create(&storage.root, &key("x")).unwrap();
    temp.write(b"one").unwrap();
    temp::place_new_by_link(&temp).unwrap();
    assert_eq!(
        temp::place_new_by_link(&temp),
        Err(Errno::NOENT),
        "its own name is gone"
    );
    drop(temp);
    let second = TempFile::create(&storage.root, &key("x")).unwrap();
    assert_eq!(temp::place_new_by_link(&second), Err(Errno::EXIST));
    assert_eq!(storage.get(&key("x"), None).await.unwrap().bytes, "one");
}

#[tokio::test]
async fn objects_are_closed_to_others() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(&dir.path().join("made/by/us")).await.unwrap();
    put(&storage, "a/1").await;
    let mode = |path: &str| fs::metadata(dir.path().join(path)).unwrap().permissions().mode() & 0o7;
    assert_eq!(
        [mode("made/by/us"), mode("made/by/us/a"), mode("made/by/us/a/1")],
        [0; 3]
    );
}

#[tokio::test]
async fn a_reader_is_told_that_there_is_no_repository() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none");
    let error = FileStorage::open_read_only(&path).await.unwrap_err();
    assert_eq!(error.class(), tidemark_types::ErrorClass::Config);
    let shown = path.display();
    assert_eq!(
        rendered(&error),
        format!("open file://{shown}: no repository at {shown}: there is no such directory (is it mounted?)")
    );
    assert!(!path.exists());
    fs::write(&path, "").unwrap();
    for error in [
        FileStorage::open_read_only(&path).await.unwrap_err(),
        FileStorage::open(&path).await.unwrap_err(),
        FileStorage::open(&path.join("below")).await.unwrap_err(),
    ] {
        assert!(
            rendered(&error).ends_with("is not a directory"),
            "{}",
            rendered(&error)
        );
    }
}

#[tokio::test]
async fn an_object_cannot_be_a_folder_too() {
    let dir = tempfile::tempdir().unwrap();
    let storage = FileStorage::open(dir.path()).await.unwrap();
    put(&storage, "a/b").await;
    for (name, mode) in [
        ("a", PutMode::Create),
        ("a", PutMode::Overwrite),
        ("a/b/c", PutMode::Create),
    ] {
        let error = storage.put(&key(name), Bytes::new(), mode).await.unwrap_err();
        assert_eq!(
            rendered(&error),
            format!(
                "put {name} in file://{}: a name cannot be an object and a folder at once in a directory",
                dir.path().display()
            )
        );
        assert_eq!(error.class(), tidemark_types::ErrorClass::Permanent);
    }
}

/// A file system of one mebibyte. These tests need root, as the whole suite does.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> SmallDisk {
        let dir = tempfile::tempdir().unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"], dir.path());
        SmallDisk(dir)
    }

    fn make_read_only(&self) {
        run("mount", &["-o", "remount,ro"], self.0.path());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        run("umount", &["-l"], self.0.path());
    }
}

fn run(program: &str, arguments: &[&str], path: &Path) {
    let status = Command::new(program).args(arguments).arg(path).status().unwrap();
    assert!(
        status.success(),
        "{program} {arguments:?} {} (are you root?)",
        path.display()
    );
}

#[tokio::test]
async fn a_full_disk_is_transient_and_leaves_no_part_behind() {
    let disk = SmallDisk::mount();
    let storage = FileStorage::open(disk.0.path()).await.unwrap();
    put(&storage, "a/small").await;
    let large = Bytes::from(vec![7; 2 << 20]);
    let error = storage
        .put(&key("a/large"), large.clone(), PutMode::Create)
        .await
        .unwrap_err();
    assert_eq!(error.class(), tidemark_types::ErrorClass::Transient);
    assert_eq!(
        rendered(&error),
        format!(
            "put a/large in file://{}: no space left on the file system: free some, or shorten retention",
            disk.0.path().display()
        )
    );
    let mut upload = storage.upload(&key("a/large")).await.unwrap();
    assert!(upload.write(large).await.is_err());
    assert!(
        upload.complete().await.is_err(),
        "a broken upload cannot be completed"
    );
    assert_eq!(names(&storage, "", None).await, ["a/small"]);
    put(&storage, "a/fits-again").await;
}

#[tokio::test]
async fn a_read_only_file_system_is_named() {
    let disk = SmallDisk::mount();
    let storage = FileStorage::open(disk.0.path()).await.unwrap();
    put(&storage, "a/1").await;
    disk.make_read_only();
    let error = storage
        .put(&key("a/2"), Bytes::new(), PutMode::Create)
        .await
        .unwrap_err();
    assert_eq!(error.class(), tidemark_types::ErrorClass::Config);
    assert_eq!(
        rendered(&error),
        format!(
            "put a/2: the file system that holds {} is mounted read-only: mount it for writing",
            disk.0.path().display()
        )
    );
    let reader = FileStorage::open_read_only(disk.0.path()).await.unwrap();
    assert_eq!(names(&reader, "", None).await, ["a/1"]);
}

#[test]
fn a_forbidden_folder_names_the_user_and_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::existing(dir.path()).unwrap();
    let error = Subject::object(&root, Operation::Put, &key("a")).error(Errno::ACCESS);
    let user = rustix::process::geteuid().as_raw();
    assert_eq!(error.class(), tidemark_types::ErrorClass::Config);
    assert_eq!(
        rendered(&error),
        format!(
            "put a: permission denied: give user id {user} access to {} and all below it",
            dir.path().display()
        )
    );
}
