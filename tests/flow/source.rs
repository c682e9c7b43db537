//! Sources: the files that they take, their order and labels, and the errors for the rest.

use std::fs;
use std::path::Path;

use orb_features::prelude::*;

fn write(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn root() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// Paths below the root and labels, in order.
fn list(root: &Path, source: FsSource) -> Vec<(String, Option<String>)> {
    let below = |uri: &str| uri.strip_prefix(&format!("{}/", root.display())).unwrap().to_owned();
    source.open().unwrap().map(|o| o.map(|o| (below(&o.uri), o.label)).unwrap()).collect()
}

fn names(root: &Path, source: FsSource) -> Vec<String> {
    list(root, source).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn files_come_in_the_order_of_their_keys_with_their_bytes() {
    let root = root();
    // '.' sorts before '/', which sorts before '0' and letters.
    let sorted =
        ["a.jpg", "a/1.jpg", "a/10.jpg", "a/2.jpg", "a/b/c.jpg", "a0.jpg", "b/x.jpg", "z.jpg"];
    for name in sorted.iter().rev() {
        write(root.path(), name, name.as_bytes());
    }
    assert_eq!(names(root.path(), FsSource::new(root.path())), sorted);
    for object in FsSource::new(root.path()).open().unwrap().read() {
        let object = object.unwrap();
        assert!(object.uri.as_bytes().ends_with(&object.bytes));
        assert!(object.modified.is_some());
    }
    let flat =
        FsSource::new(root.path()).with_selection(Selection::default().with_recursive(false));
    assert_eq!(names(root.path(), flat), ["a.jpg", "a0.jpg", "z.jpg"]);
}

#[test]
fn without_a_glob_files_with_the_ending_of_an_image_are_taken() {
    let root = root();
    for name in [
        "a.JPG",
        "b.jpeg",
        "c.png",
        "notes.txt",
        "_SUCCESS",
        ".hidden.jpg",
        ".cache/d.jpg",
        "noending",
    ] {
        write(root.path(), name, b"x");
    }
    assert_eq!(names(root.path(), FsSource::new(root.path())), ["a.JPG", "b.jpeg", "c.png"]);
}

#[test]
fn a_list_is_shared_out_to_other_sources() {
    let root = root();
    for name in ["a/1.jpg", "b/2.jpg", "b/3.jpg"] {
        write(root.path(), name, name.as_bytes());
    }
    std::os::unix::fs::symlink("nowhere", root.path().join("b/dead.jpg")).unwrap();
    let source = || FsSource::new(root.path());
    let listed: Vec<ImageRef> = source().list().unwrap().map(Result::unwrap).collect();
    let sizes: Vec<_> = listed.iter().map(|image| image.size).collect();
    assert_eq!(sizes, [Some(7), Some(7), Some(7), None]);
    let read = |source: FsSource| source.open().unwrap().read().collect::<Vec<_>>();
    let (first, rest) = listed.split_at(1);
    let parts = [first, rest].map(|part| read(source().with_listed(part.to_vec())));
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    let whole = read(source());
    for (part, whole) in parts.iter().zip(&whole).take(3) {
        assert_eq!(part.as_ref().unwrap(), whole.as_ref().unwrap());
    }
    let errors = [&parts[3], &whole[3]].map(|image| image.as_ref().unwrap_err().to_line());
    assert_eq!((parts.len(), &errors[0]), (whole.len(), &errors[1]));
    assert!(matches!(FsSource::new(root.path().join("none")).list(), Err(Error::List { .. })));
}

#[test]
fn a_glob_matches_the_path_below_the_root() {
    let root = root();
    for name in ["a.jpg", "x/b.jpg", "x/y/c.jpg", "x/d.bin", "Été 50%/e+f.jpg"] {
        write(root.path(), name, b"x");
    }
    let glob = |glob: &str| {
        names(
            root.path(),
            FsSource::new(root.path()).with_selection(Selection::default().with_glob(glob)),
        )
    };
    assert_eq!(glob("*.jpg"), ["a.jpg"]);
    assert_eq!(glob("**/*.jpg"), ["a.jpg", "x/b.jpg", "x/y/c.jpg", "Été 50%/e+f.jpg"]);
    assert_eq!(glob("x/*"), ["x/b.jpg", "x/d.bin"]);
    assert_eq!(glob("**/{b,c}.jpg"), ["x/b.jpg", "x/y/c.jpg"]);
    assert_eq!(glob("Été 50%/*"), ["Été 50%/e+f.jpg"]);
    let error = FsSource::new(root.path())
        .with_selection(Selection::default().with_glob("a{b"))
        .open()
        .unwrap_err()
        .to_line();
    assert!(error.contains("glob") && error.contains("a{b"), "{error}");
}

#[test]
fn labels_follow_the_rule_unmangled() {
    let root = root();
    write(root.path(), "kind=Pêche+50%/Apple Red 1/x y.jpg", b"x");
    let label = |rule: &str| {
        let source = FsSource::new(root.path())
            .with_selection(Selection::default().with_label(rule.parse().unwrap()));
        list(root.path(), source).remove(0).1
    };
    assert_eq!(label("parent").as_deref(), Some("Apple Red 1"));
    assert_eq!(label("segment:0").as_deref(), Some("kind=Pêche+50%"));
    assert_eq!(label("hive:kind").as_deref(), Some("Pêche+50%"));
    assert_eq!(label("none"), None);
}

#[test]
fn files_in_the_root_are_labelled_by_its_name() {
    let root = root();
    write(root.path(), "fruits/a.jpg", b"x");
    let folder = root.path().join("fruits");
    let label =
        |path: &Path| FsSource::new(path).open().unwrap().next().unwrap().unwrap().label.unwrap();
    assert_eq!(label(&folder), "fruits");
    assert_eq!(label(&folder.join("")), "fruits");
    // A single file is a source, too.
    assert_eq!(label(&folder.join("a.jpg")), "fruits");
}

#[test]
fn what_is_asked_of_folders_is_refused_of_a_single_file() {
    let root = root();
    write(root.path(), "fruits/odd", b"x");
    let select = Selection::default;
    let source = || FsSource::new(root.path().join("fruits/odd"));
    for (selection, name) in [
        (select().with_glob("*"), "glob: *"),
        (select().with_extensions(["jpg"]), "extensions: jpg"),
        (select().with_sizes(..9), "sizes: "),
        (select().with_recursive(false), "recursive: false"),
    ] {
        let line = source().with_selection(selection).open().unwrap_err().to_line();
        assert!(line.contains(name) && line.contains("fruits/odd is a file"), "{line}");
    }
    let rule = select().with_label(LabelRule::None);
    assert_eq!(source().with_selection(rule).open().unwrap().next().unwrap().unwrap().label, None);
}

#[test]
fn a_missing_folder_is_named() {
    let error = FsSource::new("/no/such/folder").open().unwrap_err();
    assert_eq!(error.uri(), Some("/no/such/folder"));
    assert!(error.to_line().contains("No such file"), "{}", error.to_line());
}

#[test]
fn an_empty_folder_and_a_glob_without_a_match_say_what_was_there() {
    let root = root();
    let only = |source: FsSource| {
        let items: Vec<_> = source.open().unwrap().read().collect();
        assert_eq!(items.len(), 1);
        items.into_iter().next().unwrap().unwrap_err()
    };
    let error = only(FsSource::new(root.path()));
    assert!(matches!(error, Error::NoInput { .. }), "{error}");
    write(root.path(), "a.jpg", b"x");
    write(root.path(), "b/c.jpg", b"x");
    let error =
        only(FsSource::new(root.path()).with_selection(Selection::default().with_glob("*.png")))
            .to_line();
    assert!(error.contains("*.png") && error.contains("2 files"), "{error}");
    assert!(error.contains("'**/*.png'"), "{error}");
    assert!(error.contains(&root.path().display().to_string()), "{error}");
}

#[test]
fn a_file_that_is_too_long_is_an_error_of_its_own() {
    let root = root();
    write(root.path(), "a.jpg", &[0; 100]);
    write(root.path(), "b.jpg", &[0; 101]);
    write(root.path(), "c.jpg", &[]);
    let source = FsSource::new(root.path()).with_max_file_bytes(100);
    let items: Vec<_> = source.open().unwrap().read().collect();
    assert_eq!(items[0].as_ref().unwrap().bytes.len(), 100);
    let error = items[1].as_ref().unwrap_err();
    assert_eq!((error.code(), error.uri().unwrap().ends_with("b.jpg")), ("too_large", true));
    assert!(items[2].as_ref().unwrap().bytes.is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn a_name_that_is_not_utf8_is_an_error_of_its_own() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let root = root();
    write(root.path(), "a.jpg", b"x");
    fs::write(root.path().join(OsStr::from_bytes(b"b\xff.jpg")), b"x").unwrap();
    write(root.path(), "c.jpg", b"x");
    let items: Vec<_> = FsSource::new(root.path()).open().unwrap().read().collect();
    assert_eq!(items.len(), 3);
    assert!(items[0].is_ok() && items[2].is_ok());
    let error = items[1].as_ref().unwrap_err();
    assert!(matches!(error, Error::NotUtf8 { .. }));
    assert!(error.to_line().contains("b\\xFF.jpg"), "{}", error.to_line());
}

#[test]
#[cfg(unix)]
fn links_to_nothing_that_would_not_be_taken_are_passed_over() {
    use std::os::unix::fs::symlink;
    let root = root();
    write(root.path(), "a/x.jpg", b"x");
    write(root.path(), "real/1.jpg", b"x");
    write(root.path(), "b.jpg", b"x");
    symlink("nobody@host:1", root.path().join(".#lock.jpg")).unwrap();
    symlink("gone.txt", root.path().join("notes.txt")).unwrap();
    symlink(root.path(), root.path().join("a/.loop")).unwrap();
    // A linked folder sorts as a folder.
    symlink(root.path().join("real"), root.path().join("b")).unwrap();
    let got = names(root.path(), FsSource::new(root.path()));
    assert_eq!(got, ["a/x.jpg", "b.jpg", "b/1.jpg", "real/1.jpg"]);
}

#[test]
#[cfg(unix)]
fn links_are_followed_and_loops_and_dead_links_reported() {
    use std::os::unix::fs::symlink;
    let root = root();
    write(root.path(), "real/a.jpg", b"x");
    symlink(root.path().join("real"), root.path().join("alias")).unwrap();
    symlink(root.path().join("gone.jpg"), root.path().join("dead.jpg")).unwrap();
    symlink(root.path(), root.path().join("real/loop")).unwrap();
    symlink("itself.jpg", root.path().join("itself.jpg")).unwrap();
    let items: Vec<_> = FsSource::new(root.path()).open().unwrap().read().collect();
    let good: Vec<_> = items.iter().flatten().map(|o| o.uri.rsplit_once('/').unwrap().0).collect();
    assert_eq!(good.len(), 2, "{items:?}");
    let errors: Vec<_> =
        items.iter().filter_map(|o| o.as_ref().err()).map(Error::to_line).collect();
    assert!(errors.iter().any(|e| e.contains("dead.jpg")), "{errors:?}");
    assert!(errors.iter().any(|e| e.contains("loop")), "{errors:?}");
    assert!(errors.iter().any(|e| e.contains("itself.jpg")), "{errors:?}");
    let of_one = |e: &&Error| e.is_of_one_image();
    assert_eq!(items.iter().filter_map(|o| o.as_ref().err()).filter(of_one).count(), 4);
}

#[test]
fn a_folder_that_cannot_be_listed_ends_a_job() {
    let root = root();
    write(root.path(), "a/1.jpg", b"x");
    write(root.path(), "b/1.jpg", b"x");
    let mut images = FsSource::new(root.path()).open().unwrap().read();
    assert!(images.next().unwrap().is_ok());
    // An error whatever the folder contained, as it existed when the root was listed.
    fs::remove_dir_all(root.path().join("b")).unwrap();
    let error = images.next().unwrap().unwrap_err();
    assert!(matches!(error, Error::List { .. }) && !error.is_of_one_image(), "{error:?}");
    assert!(error.to_line().contains(root.path().join("b").to_str().unwrap()), "{error}");
}

/// Root can read any file, so this is tested only for other users.
#[test]
#[cfg(unix)]
fn an_unreadable_file_is_an_error_of_its_own() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = root();
    write(root.path(), "a.jpg", b"x");
    write(root.path(), "b.jpg", b"x");
    let closed = fs::Permissions::from_mode(0o000);
    fs::set_permissions(root.path().join("a.jpg"), closed).unwrap();
    if fs::read(root.path().join("a.jpg")).is_ok() {
        println!("skipped: this user may read everything");
        return;
    }
    let items: Vec<_> = FsSource::new(root.path()).open().unwrap().read().collect();
    assert!(items[0].as_ref().unwrap_err().to_line().contains("a.jpg"));
    assert!(items[1].is_ok());
}

#[test]
fn memory_and_iterators_are_sources() {
    let images = [("x/a.jpg", &b"1"[..]), ("b.jpg", b"2")];
    let objects: Vec<_> = MemorySource::new(images).open().unwrap().map(Result::unwrap).collect();
    assert_eq!(objects[0].label.as_deref(), Some("x"));
    assert_eq!(objects[1].label, None);
    let rule = LabelRule::None;
    let unlabelled = MemorySource::new(images).with_label(rule).open().unwrap();
    assert!(unlabelled.into_iter().all(|o| o.unwrap().label.is_none()));
    let again: Vec<_> =
        objects.clone().into_iter().map(Ok).open().unwrap().map(Result::unwrap).collect();
    assert_eq!(again, objects);
}

#[test]
fn listed_images_are_read_in_their_turn_by_any_thread() {
    let root = root();
    for name in ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"] {
        write(root.path(), name, name.as_bytes());
    }
    let open = || FsSource::new(root.path()).open().unwrap();
    let read: Vec<ImageObject> = open().read().collect::<Result<_>>().unwrap();
    let mut listed: Vec<ListedImage> = open().collect::<Result<_>>().unwrap();
    assert_eq!(listed.len(), 4);
    // URI and label are known before the image is read.
    for (listed, read) in listed.iter().zip(&read) {
        assert_eq!((&listed.uri, &listed.label), (&read.uri, &read.label));
    }
    // Read by another thread in reverse order. One file is gone by then, and one image has a new label.
    fs::remove_file(root.path().join("a/2.jpg")).unwrap();
    listed[3].label = Some("mine".to_owned());
    let later = std::thread::spawn(move || {
        listed.reverse();
        listed.into_iter().map(ListedImage::read).collect::<Vec<_>>()
    });
    let later = later.join().unwrap();
    for (i, j) in [(1, 2), (3, 0)] {
        assert_eq!(later[i].as_ref().unwrap(), &read[j]);
    }
    assert_eq!(later[0].as_ref().unwrap().label.as_deref(), Some("mine"));
    assert!(later[2].as_ref().unwrap_err().to_string().contains("a/2.jpg"));
    let nothing = FsSource::new(root.path().join("b")).with_max_file_bytes(1).open().unwrap();
    assert!(nothing.read().all(|image| image.is_err()));
}
