//! A folder as the output: other users, dead runs, concurrent runs and unusual file systems.
#![cfg(all(target_os = "linux", feature = "cli"))]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use orb_features::prelude::*;
use testkit::names;
use testkit::photos;

const PROGRAM: &str = env!("CARGO_BIN_EXE_orb-features");

/// A run id of no run.
const RUN: &str = "0123456789abcdef0123456789abcdef";

/// `n` rows of a made-up image.
fn rows(n: u32) -> RowBatch {
    let meta = Arc::new(ImageMeta::new("a.jpg").with_shape(1, 1, 3));
    let keypoint = KeyPoint { x: 0.5, y: 0.5, size: 31.0, response: 1.0, ..KeyPoint::default() };
    testkit::rows::batch([&testkit::rows::image(meta, (0..n).map(|_| (keypoint, [7; 32])))])
}

fn create(out: &Path, mode: WriteMode) -> Result<FileSink> {
    FileSink::create(out, FileParams::default().with_mode(mode).with_rows_per_file(2))
}

fn write(out: &Path, mode: WriteMode, n: u32) -> Result<SinkReport> {
    let mut sink = create(out, mode)?;
    sink.write(rows(n))?;
    sink.finish()
}

/// A batch of one failure and no rows.
fn failure() -> RowBatch {
    let mut batch = rows(0);
    batch.push_failed(FailedImage::new(None, "orb", "x", "y"));
    batch
}

/// Number of rows in the folder's Parquet files.
fn count(out: &Path) -> u64 {
    let parts = names(out).into_iter().filter(|n| n.ends_with(".parquet"));
    parts
        .map(|name| {
            let file = fs::File::open(out.join(name)).unwrap();
            let reader =
                parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file);
            reader.unwrap().metadata().file_metadata().num_rows() as u64
        })
        .sum()
}

fn one(folder: &Path, is: impl Fn(&str) -> bool) -> Option<PathBuf> {
    names(folder).into_iter().find(|name| is(name)).map(|name| folder.join(name))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn mode_of(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn is_root() -> bool {
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        eprintln!("skipped: only root can be others, and mount");
    }
    is_root
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A folder with sample photos in `in`.
struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new(per_kind: u32) -> Self {
        let root = tempfile::tempdir().unwrap();
        photos::write_photos(&root.path().join("in"), per_kind).unwrap();
        Self { root }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.current_dir(self.root.path()).args(["extract", "in", "out"]).args(args);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn extract(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) {
        let output = self.extract(args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
    }

    /// Starts a slow job, and waits until `folder` contains a name that satisfies `is`.
    fn start(&self, args: &[&str], folder: &Path, is: impl Fn(&str) -> bool) -> Child {
        let slow = ["--n-features", "5000", "--first-level", "12", "--edge-threshold", "5"];
        let mut child = self.command(&[&slow[..], args].concat()).spawn().unwrap();
        while !folder.exists() || one(folder, &is).is_none() {
            assert!(child.try_wait().unwrap().is_none(), "it has ended by itself");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child
    }
}

fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_planted_link_is_never_followed() {
    let root = tempfile::tempdir().unwrap();
    let (out, precious) = (root.path().join("out"), root.path().join("precious"));
    let deep = root.path().join("deep");
    fs::create_dir(&deep).unwrap();
    fs::write(&precious, [b'p'; 200]).unwrap();
    let untouched = || {
        assert_eq!(fs::metadata(&precious).unwrap().len(), 200);
        assert!(names(&deep).is_empty());
    };
    for mode in [WriteMode::Overwrite, WriteMode::Append] {
        // Even if somebody else can write to the hidden folder, as root can.
        for place in ["_SUCCESS", "part-00001", "_errors"] {
            let _ = fs::remove_dir_all(&out);
            write(&out, WriteMode::Error, 1).unwrap();
            let mut sink = create(&out, mode).unwrap();
            let (folder, is): (&Path, fn(&str) -> bool) = match mode {
                WriteMode::Append => (&out, |name| name.starts_with("_temporary-")),
                _ => (root.path(), |name| name.starts_with(".out.")),
            };
            let hidden = one(folder, is).unwrap();
            assert_eq!(mode_of(&hidden) & 0o077, 0, "it is open to others");
            let run = hidden.file_name().unwrap().to_str().unwrap().to_owned();
            let run = run.trim_start_matches(".out.").trim_start_matches("_temporary-");
            let run = run.trim_end_matches(".tmp");
            match place {
                "_SUCCESS" => symlink(&precious, hidden.join(place)).unwrap(),
                "_errors" => symlink(&deep, hidden.join(place)).unwrap(),
                _ => symlink(&precious, hidden.join(format!("{place}-{run}.parquet"))).unwrap(),
            }
            let written = sink.write(rows(5)).and_then(|()| sink.write(failure()));
            let error = written.and_then(|()| sink.finish().map(drop)).unwrap_err().to_line();
            assert!(error.contains(place), "{error}");
            untouched();
            assert!(out.join("_SUCCESS").is_file() && count(&out) == 1);
            // The sink does not remove the links of others, so its hidden folder may be left.
            let _ = fs::remove_dir_all(hidden);
        }
    }
    // Links in the output itself.
    for name in ["_SUCCESS", "_errors"] {
        let _ = fs::remove_dir_all(&out);
        write(&out, WriteMode::Error, 1).unwrap();
        let _ = fs::remove_file(out.join(name));
        let to = if name == "_errors" { &deep } else { &precious };
        symlink(to, out.join(name)).unwrap();
        let added = create(&out, WriteMode::Append).and_then(|mut sink| {
            sink.write(rows(5))?;
            sink.write(failure())?;
            sink.finish()
        });
        assert!(added.unwrap_err().to_line().contains(name));
        untouched();
        assert!(out.join(name).is_symlink() && count(&out) == 1);
    }
}

#[test]
fn a_member_of_the_group_replaces_and_adds_with_its_permissions() {
    if !is_root() {
        return;
    }
    let bench = Bench::new(2);
    set_mode(bench.root.path(), 0o2775);
    chown(bench.root.path(), Some(4001), Some(4000)).unwrap();
    let out = bench.path("out");
    write(&out, WriteMode::Error, 1).unwrap();
    for path in names(&out).iter().map(|name| out.join(name)).chain([out.clone()]) {
        chown(path, Some(4001), Some(4000)).unwrap();
    }
    set_mode(&out, 0o2775);
    set_mode(&out.join("_images"), 0o2775);
    // A copy of the program that any user may run.
    let program = bench.path("program");
    fs::copy(PROGRAM, &program).unwrap();
    set_mode(&program, 0o755);
    for mode in ["overwrite", "append"] {
        let output = Command::new(&program)
            .current_dir(bench.root.path())
            .args(["extract", "in", "out", "--mode", mode])
            .uid(4002)
            .gid(4000)
            .output()
            .unwrap();
        assert!(output.status.success(), "{mode}: {}", said(&output));
        assert_eq!((mode_of(&out), fs::metadata(&out).unwrap().gid()), (0o2775, 4000), "{mode}");
    }
    assert_eq!(names(bench.root.path()), ["in", "out", "program"]);
    // A result that root replaces keeps its owner.
    chown(&out, Some(4001), Some(4000)).unwrap();
    set_mode(&out, 0o2570);
    write(&out, WriteMode::Overwrite, 3).unwrap();
    let now = fs::metadata(&out).unwrap();
    assert_eq!((now.uid(), now.gid(), mode_of(&out)), (4001, 4000, 0o2570));
}

#[test]
fn folders_of_dead_runs_are_cleared_by_the_next() {
    let bench = Bench::new(40);
    let is_hidden = |name: &str| name.starts_with(".out.");
    kill(bench.start(&[], bench.root.path(), is_hidden));
    let dead = one(bench.root.path(), is_hidden).unwrap();
    // A run on another output does not clear it.
    write(&bench.path("other"), WriteMode::Error, 1).unwrap();
    assert!(dead.exists());
    // It is not cleared while it contains a file that no run writes.
    fs::write(dead.join("thesis.doc"), b"dear").unwrap();
    bench.ok(&["--n-features", "5"]);
    assert!(dead.join("thesis.doc").exists());
    fs::remove_file(dead.join("thesis.doc")).unwrap();
    // It is not cleared while it belongs to another user.
    if is_root() {
        chown(&dead, Some(4001), None).unwrap();
        bench.ok(&["--n-features", "5", "--mode", "overwrite"]);
        assert!(dead.exists());
        chown(&dead, Some(0), None).unwrap();
    }
    // Otherwise the next run clears it, whatever its mode.
    bench.ok(&["--n-features", "5", "--mode", "append"]);
    assert_eq!(names(bench.root.path()), ["in", "other", "out"]);
    bench.ok(&["--n-features", "5", "--mode", "overwrite"]);

    // The same with the hidden folder of an append, which lies in the output.
    let before = (names(&bench.path("out")), count(&bench.path("out")));
    let is_hidden = |name: &str| name.starts_with("_temporary-");
    kill(bench.start(&["--mode", "append", "--force"], &bench.path("out"), is_hidden));
    assert_eq!(count(&bench.path("out")), before.1);
    bench.ok(&["--n-features", "5", "--mode", "append"]);
    assert_eq!(names(&bench.path("out")).len(), before.0.len() + 1);
    assert_eq!(count(&bench.path("out")), 2 * before.1);
}

#[test]
fn folders_of_runs_that_live_are_left_alone() {
    let bench = Bench::new(2);
    let out = bench.path("out");
    bench.ok(&["--no-pca"]);
    let n = count(&out);
    for (mode, then) in [(WriteMode::Overwrite, 3), (WriteMode::Append, 3 + n + 3)] {
        let mut sink = create(&out, mode).unwrap();
        sink.write(rows(3)).unwrap();
        bench.ok(&["--mode", "append", "--no-pca"]);
        assert!(
            one(&out, |n| n.starts_with("_temporary-")).is_some() == (mode == WriteMode::Append)
        );
        sink.finish().unwrap();
        assert_eq!(count(&out), then);
        assert_eq!(names(bench.root.path()), ["in", "out"]);
    }
}

/// A result, and a run that died while it added two files of two rows: only the first file is in place.
fn torn(root: &Path) -> PathBuf {
    let (out, other) = (root.join("out"), root.join("other"));
    write(&out, WriteMode::Error, 1).unwrap();
    write(&other, WriteMode::Error, 4).unwrap();
    let parts: Vec<_> = names(&other).into_iter().filter(|n| n.starts_with("part-")).collect();
    let run = parts[0].trim_start_matches("part-00000-").trim_end_matches(".parquet");
    let dead = out.join(format!("_temporary-{run}"));
    fs::create_dir(&dead).unwrap();
    set_mode(&dead, 0o700);
    fs::rename(out.join("_SUCCESS"), dead.join("_SUCCESS.before")).unwrap();
    fs::rename(other.join(&parts[0]), out.join(&parts[0])).unwrap();
    fs::rename(other.join(&parts[1]), dead.join(&parts[1])).unwrap();
    fs::rename(other.join("_SUCCESS"), dead.join("_SUCCESS")).unwrap();
    fs::create_dir(out.join("_errors")).unwrap();
    fs::write(out.join("_errors").join(&parts[0]), b"x").unwrap();
    fs::rename(other.join("_images").join(&parts[0]), out.join("_images").join(&parts[0])).unwrap();
    fs::remove_dir(other.join("_images")).unwrap();
    fs::remove_dir(other).unwrap();
    assert_eq!(count(&out), 3);
    dead
}

#[test]
fn an_append_that_died_half_way_is_undone_by_the_next() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let dead = torn(root.path());
    // If the other run died before the next append begins, it is undone at the beginning.
    let sink = create(&out, WriteMode::Append);
    assert!(!dead.exists() && count(&out) == 1 && out.join("_SUCCESS").exists());
    assert!(names(&out.join("_errors")).is_empty());
    drop(sink);
    assert_eq!(write(&out, WriteMode::Append, 5).unwrap().rows, 5);
    assert_eq!(count(&out), 6);

    // If it died after the next append began, it is undone before the commit.
    fs::remove_dir_all(&out).unwrap();
    write(&out, WriteMode::Error, 1).unwrap();
    let mut sink = create(&out, WriteMode::Append).unwrap();
    sink.write(rows(5)).unwrap();
    let aside = root.path().join("aside");
    let torn_out = aside.join("out");
    fs::create_dir(&aside).unwrap();
    let dead = torn(&aside);
    fs::remove_file(out.join("_SUCCESS")).unwrap();
    let name = dead.file_name().unwrap().to_str().unwrap();
    fs::rename(&dead, out.join(name)).unwrap();
    let run = name.trim_start_matches("_temporary-");
    let part = format!("part-00000-{run}.parquet");
    fs::rename(torn_out.join(&part), out.join(&part)).unwrap();
    sink.finish().unwrap();
    assert_eq!(count(&out), 6);
    assert!(out.join("_SUCCESS").exists());
    assert!(one(&out, |n| n.starts_with("_temporary-")).is_none());

    // If somebody has put `_SUCCESS` back by hand, the rows of the dead run stay.
    fs::remove_dir_all(&out).unwrap();
    let dead = torn(root.path());
    fs::write(out.join("_SUCCESS"), b"").unwrap();
    write(&out, WriteMode::Append, 5).unwrap();
    assert_eq!((count(&out), dead.exists()), (8, false));
}

#[test]
fn an_append_whose_mark_has_gone_is_refused_and_kept() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    write(&out, WriteMode::Error, 1).unwrap();
    let mut sink = create(&out, WriteMode::Append).unwrap();
    sink.write(rows(5)).unwrap();
    // Another run has taken the mark away: it is committing on another machine, or has died there.
    fs::remove_file(out.join("_SUCCESS")).unwrap();
    let error = sink.finish().unwrap_err().to_line();
    let kept = one(&out, |n| n.starts_with("_complete-")).unwrap();
    assert!(error.contains("no _SUCCESS") && error.contains(kept.to_str().unwrap()), "{error}");
    assert!(!out.join("_SUCCESS").exists());
    assert_eq!((count(&out), count(&kept)), (1, 5));
}

/// A folder with the name of a part, and other files, do not count as rows without a mark.
#[test]
fn rows_are_added_beside_what_is_no_part() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    fs::create_dir_all(out.join(format!("part-00000-{RUN}.parquet"))).unwrap();
    fs::write(out.join("notes.txt"), "ours").unwrap();
    write(&out, WriteMode::Append, 2).unwrap();
    assert!(out.join("_SUCCESS").exists() && out.join("notes.txt").exists());
}

#[test]
fn an_append_of_other_columns_than_were_added_meanwhile_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let mut first = create(&out, WriteMode::Append).unwrap();
    let mut second = create(&out, WriteMode::Append).unwrap();
    first.write(rows(3)).unwrap();
    let scores = ndarray::Array2::zeros((3, 2));
    second.write(rows(3).with_scores(scores).unwrap()).unwrap();
    first.finish().unwrap();
    let error = second.finish().unwrap_err().to_line();
    assert!(error.contains("columns differ") && error.contains("_complete-"), "{error}");
    assert_eq!(count(&out), 3);
}

#[test]
fn an_append_to_what_is_replaced_meanwhile_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    write(&out, WriteMode::Error, 1).unwrap();
    let mut sink = create(&out, WriteMode::Append).unwrap();
    sink.write(rows(3)).unwrap();
    // As an overwrite does before it removes the old result.
    fs::rename(&out, root.path().join("old")).unwrap();
    write(&out, WriteMode::Error, 2).unwrap();
    let error = sink.finish().unwrap_err().to_line();
    assert!(error.contains("another run has replaced it"), "{error}");
    assert_eq!((count(&out), names(&out).len()), (2, 3));
    // The finished files are kept in the old folder, under its new name.
    let old = fs::canonicalize(root.path().join("old")).unwrap();
    let kept = one(&old, |name| name.starts_with("_complete-")).unwrap();
    assert!(error.contains(&format!("kept in {}", kept.display())), "{error}");
    assert_eq!((names(&old).len(), count(&old), count(&kept)), (4, 1, 3));
}

/// Runs a script as root in its own mount namespace, with `$PROGRAM` set; `None` if nothing can be mounted.
fn mounted(root: &Path, script: &str) -> Option<Output> {
    if !is_root() {
        return None;
    }
    let run = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", script]).env("PROGRAM", PROGRAM).current_dir(root);
        command.output()
    };
    let can = "mkdir -p l u w m; mount -t overlay o -o lowerdir=l,upperdir=u,workdir=w m";
    // Overlayfs cannot be stacked on overlayfs, hence the tmpfs.
    let can = format!("mkdir t; mount -t tmpfs t t; cd t; {can}");
    if !run(&can).is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: nothing can be mounted here");
        return None;
    }
    let _ = fs::remove_dir(root.join("t"));
    Some(run(script).unwrap())
}

#[test]
fn a_destination_that_cannot_be_replaced_is_said_before_the_job() {
    let bench = Bench::new(1);
    // A bind mount on the same device, so device numbers do not reveal it.
    let output = mounted(
        bench.root.path(),
        "$PROGRAM extract in real >/dev/null; mkdir out; mount --bind real out
         $PROGRAM extract none out --mode overwrite 2>&1 | grep -q 'cannot list none'
         $PROGRAM extract in out --mode overwrite --save-model m.json && exit 9; ls -A . out real >&2",
    );
    let Some(output) = output else { return };
    let message = said(&output);
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains("mount point") && message.contains("name a folder in it"),
        "{message}"
    );
    assert!(!message.contains(".out.") && !message.contains("kept"), "{message}");

    // In the lower layer of an overlay, a full folder cannot be replaced, but an empty one can.
    let output = mounted(
        bench.root.path(),
        "mkdir t; mount -t tmpfs t t; mkdir t/l t/u t/w t/m t/l/empty
         $PROGRAM extract in t/l/full >/dev/null
         mount -t overlay o -o lowerdir=t/l,upperdir=t/u,workdir=t/w,redirect_dir=off t/m
         $PROGRAM extract in t/m/empty >/dev/null
         $PROGRAM extract in t/m/new >/dev/null
         $PROGRAM extract in t/m/new --mode overwrite >/dev/null
         $PROGRAM extract in t/m/full --mode append >/dev/null
         $PROGRAM extract in t/m/full --mode overwrite && exit 9; ls -A t/m >&2",
    );
    let output = output.unwrap();
    let message = said(&output);
    assert!(output.status.success(), "{message}");
    assert!(message.contains("cannot be replaced as a whole"), "{message}");
    assert!(message.ends_with("empty\nfull\nnew\n"), "{message}");
}

#[test]
fn a_link_that_the_kernel_refuses_to_follow_is_not_followed() {
    let bench = Bench::new(1);
    let output = mounted(
        bench.root.path(),
        "mkdir t; mount -t tmpfs -o nosymfollow t t 2>/dev/null || { echo skipped >&2; exit; }
         mkdir t/real; echo '{}' > t/real.json; ln -s real t/link; ln -s real.json t/link.json
         cat t/link.json 2>/dev/null && { echo skipped >&2; exit; }
         for mode in error overwrite append; do
         $PROGRAM extract in t/link --mode $mode && exit 9; $PROGRAM extract in t/link/new --mode $mode && exit 9
         done; $PROGRAM extract in new --save-model t/link.json && exit 9
         ls -A t/real >&2; cat t/real.json >&2",
    );
    let Some(output) = output else { return };
    let message = said(&output);
    assert!(output.status.success(), "{message}");
    assert!(message.ends_with("skipped\n") || message.ends_with("{}\n"), "{message}");
    assert!(!message.contains("part-") && !message.contains("_SUCCESS"), "{message}");
}

#[test]
fn a_setgid_output_gives_its_files_its_group() {
    if !is_root() {
        return;
    }
    let bench = Bench::new(1);
    let out = bench.path("out");
    let shell = format!("umask 027; exec {PROGRAM} extract in out --mode \"$1\"");
    fs::create_dir(&out).unwrap();
    chown(&out, None, Some(4000)).unwrap();
    for (permissions, group) in [(0o2770, 4000), (0o770, 0)] {
        for mode in ["error", "overwrite", "append"] {
            if mode == "error" {
                for path in names(&out).into_iter().map(|name| out.join(name)) {
                    if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
                        .unwrap();
                }
            }
            set_mode(&out, permissions);
            let mut command = Command::new("sh");
            command.args(["-c", &shell, "sh", mode]).current_dir(bench.root.path());
            let output = command.output().unwrap();
            assert!(output.status.success(), "{mode}: {}", said(&output));
            assert_eq!((mode_of(&out), fs::metadata(&out).unwrap().gid()), (permissions, 4000));
            for name in names(&out) {
                let file = out.join(&name);
                let is_folder = name == "_images";
                // A folder has what the output has.
                let group = if is_folder { 4000 } else { group };
                let gid = fs::metadata(&file).unwrap().gid();
                assert_eq!(gid, group, "{mode} {permissions:o} {name}");
                let mode_now = if is_folder { mode_of(&file) & 0o777 } else { mode_of(&file) };
                let wanted = if is_folder { permissions & 0o777 } else { 0o640 };
                assert_eq!(mode_now, wanted, "{mode} {name}");
            }
        }
    }
}

#[test]
fn a_finished_result_that_cannot_be_put_in_place_is_kept() {
    for mode in [WriteMode::Error, WriteMode::Overwrite] {
        let root = tempfile::tempdir().unwrap();
        let out = root.path().join("out");
        let mut sink = create(&out, mode).unwrap();
        sink.write(rows(5)).unwrap();
        fs::write(&out, b"a file").unwrap();
        let error = sink.finish().unwrap_err().to_line();
        let kept = one(root.path(), |name| name.ends_with(".complete")).expect(&error);
        assert!(error.contains("the finished files of this run are kept in"), "{error}");
        assert!(error.contains(kept.to_str().unwrap()), "{error}");
        assert!(kept.join("_SUCCESS").exists() && count(&kept) == 5);
        assert_eq!(fs::read(&out).unwrap(), b"a file");
        // The next run leaves it alone.
        fs::remove_file(&out).unwrap();
        write(&out, mode, 1).unwrap();
        assert!(kept.join("_SUCCESS").exists());
        assert_eq!(names(root.path()).len(), 2);
    }
}

#[test]
fn a_finished_result_is_kept_if_something_came_into_its_place_during_the_job() {
    for mode in [WriteMode::Error, WriteMode::Overwrite] {
        for foreign in ["thesis.doc", "_errors/thesis.doc"] {
            let root = tempfile::tempdir().unwrap();
            let out = root.path().join("out");
            if mode == WriteMode::Overwrite {
                write(&out, WriteMode::Error, 1).unwrap();
            }
            let mut sink = create(&out, mode).unwrap();
            sink.write(rows(5)).unwrap();
            let foreign = out.join(foreign);
            fs::create_dir_all(foreign.parent().unwrap()).unwrap();
            fs::write(&foreign, b"dear").unwrap();
            let error = sink.finish().unwrap_err();
            assert_eq!(matches!(error, Error::OutputExists { .. }), mode == WriteMode::Error);
            let error = error.to_line();
            let kept = one(root.path(), |name| name.ends_with(".complete")).expect(&error);
            assert!(error.contains(kept.to_str().unwrap()), "{error}");
            assert!(kept.join("_SUCCESS").exists() && count(&kept) == 5 && foreign.exists());
            assert_eq!(names(root.path()).len(), 2);
        }
    }
}

#[test]
fn failures_are_added_to_a_folder_or_the_files_kept() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    write(&out, WriteMode::Error, 1).unwrap();
    let mut sink = create(&out, WriteMode::Append).unwrap();
    sink.write(rows(5)).unwrap();
    sink.write(failure()).unwrap();
    fs::write(out.join("_errors"), b"a file").unwrap();
    let error = sink.finish().unwrap_err().to_line();
    let kept = one(&out, |name| name.starts_with("_complete-")).expect(&error);
    assert!(error.contains("_errors") && error.contains(kept.to_str().unwrap()), "{error}");
    assert_eq!((count(&out), count(&kept), names(&kept.join("_errors")).len()), (1, 5, 1));
    // The next append is refused before its job.
    let error = create(&out, WriteMode::Append).unwrap_err().to_line();
    assert!(error.contains("its _errors is not a folder"), "{error}");
}

#[test]
fn a_working_folder_is_not_replaced() {
    let bench = Bench::new(1);
    let out = bench.path("out");
    fs::create_dir(&out).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.current_dir(&out).args(["extract", "../in"]).args(args).output().unwrap()
    };
    for (out, mode) in [(".", "error"), (".", "overwrite"), ("../out", "overwrite")] {
        let output = run(&[out, "--mode", mode]);
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains("it is the working folder"), "{}", said(&output));
        assert_eq!(names(bench.root.path()), ["in", "out"]);
    }
    assert!(run(&[".", "--mode", "append"]).status.success());
    assert!(out.join("_SUCCESS").exists());
    assert!(run(&["a/../z"]).status.success());
    assert!(out.join("z/_SUCCESS").exists() && !out.join("a").exists());
}

#[test]
fn names_that_only_look_like_those_of_dead_runs_are_left() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let others = [
        format!(".out.{RUN}.tmpx"),
        format!(".out.{}.tmp", RUN.to_uppercase()),
        format!(".outer.{RUN}.tmp"),
        format!(".out.{RUN}.complete"),
        ".out.tmp".to_owned(),
    ];
    for name in &others {
        fs::create_dir(root.path().join(name)).unwrap();
    }
    // A link with the name of a dead run's folder is neither removed nor followed.
    let (linked, link) = (root.path().join("linked"), format!(".out.{RUN}.tmp"));
    fs::create_dir(&linked).unwrap();
    fs::write(linked.join("_SUCCESS"), b"").unwrap();
    symlink(&linked, root.path().join(&link)).unwrap();
    write(&out, WriteMode::Overwrite, 1).unwrap();
    assert!(others.iter().all(|name| root.path().join(name).is_dir()));
    assert!(root.path().join(&link).is_symlink() && linked.join("_SUCCESS").exists());
}
