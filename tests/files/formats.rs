//! The shapes and formats of a result: rows of images, padded rows, CSV, numbers of files, Spark's types, the list of
//! all images.
#![cfg(all(feature = "jpeg", feature = "parquet"))]

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Float64Type, Int8Type, Int32Type, Int64Type};
use arrow_array::{Array as _, ArrayRef, RecordBatch};
use orb_features::prelude::*;
use orb_features::rows::ROW_METADATA;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::parquet::rows_in;
use testkit::photos;

fn orb() -> Orb {
    OrbParams::default().build().unwrap()
}

/// Photos of which some have no features, and damaged files between them.
fn images() -> Vec<(String, Vec<u8>)> {
    let flat = [b"P5 100 100 255\n".to_vec(), vec![9; 10_000]].concat();
    (0..30)
        .map(|i| {
            let photo = photos::photo(i as usize % 6, i).unwrap();
            match i % 10 {
                3 => (format!("flat/{i:02}.pgm"), flat.clone()),
                7 => (format!("bad/{i:02}.jpg"), photo[..photo.len() / 2].to_vec()),
                _ => (format!("kind {}/{i:02}.jpg", i % 3), photo),
            }
        })
        .collect()
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        entries.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
    files.sort();
    files
}

/// A job on [`images`]; its result, without and with the list of images.
struct Bench {
    root: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap() }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn try_run(&self, name: &str, params: FileParams, pca: Option<PcaParams>) -> Result<RunReport> {
        let sink = FileSink::create(self.out(name), params)?;
        let pipeline = Pipeline::new(MemorySource::new(images()), orb(), sink)
            .with_on_error(OnError::Skip)
            // Small, so that batches are read from a file.
            .with_spool(Spool::default().with_memory(1000).with_folder(self.root.path()));
        match pca {
            Some(pca) => pipeline.with_pca(pca),
            None => pipeline.without_pca(),
        }
        .run()
    }

    fn run(&self, name: &str, params: FileParams, pca: Option<PcaParams>) -> RecordBatch {
        self.try_run(name, params, pca).unwrap();
        rows_in(&self.out(name))
    }
}

fn with_rows(rows: RowShape) -> FileParams {
    FileParams::default().with_table(TableParams::default().with_rows(rows))
}

fn column<'a>(table: &'a RecordBatch, name: &str) -> &'a ArrayRef {
    table.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"))
}

fn texts(table: &RecordBatch, name: &str) -> Vec<String> {
    let column = column(table, name).as_string::<i32>();
    column.iter().map(|text| text.unwrap_or("-").to_owned()).collect()
}

fn floats(column: &ArrayRef) -> Vec<f32> {
    column.as_primitive::<Float32Type>().values().to_vec()
}

/// The concatenated elements of a column of lists.
fn inner(column: &ArrayRef) -> ArrayRef {
    match column.as_list_opt::<i32>() {
        Some(lists) => Arc::clone(lists.values()),
        None => Arc::clone(column.as_fixed_size_list().values()),
    }
}

#[test]
fn a_row_of_an_image_holds_the_rows_of_its_descriptors() {
    let bench = Bench::new();
    let pca = Some(PcaParams::new(4));
    let flat = bench.run("flat", FileParams::default(), pca.clone());
    let nested = bench.run("nested", with_rows(RowShape::Image), pca);
    let counts = column(&nested, "n_keypoints").as_primitive::<Int32Type>().values().to_vec();
    assert_eq!((nested.num_rows(), counts.iter().sum::<i32>() as usize), (27, flat.num_rows()));
    assert_eq!(counts.iter().filter(|&&n| n == 0).count(), 3);
    for (name, path) in ["path", "label"].iter().zip(["path", "label"]) {
        let paths = texts(&nested, name).into_iter().zip(&counts);
        let repeated: Vec<_> =
            paths.flat_map(|(path, &n)| std::iter::repeat_n(path, n as usize)).collect();
        assert_eq!(repeated, texts(&flat, path));
    }
    for name in ["x", "y", "size", "angle", "response"] {
        assert_eq!(floats(&inner(column(&nested, name))), floats(column(&flat, name)), "{name}");
    }
    let descriptors = inner(column(&nested, "descriptor"));
    let (descriptors, ours) = (descriptors.as_binary::<i32>(), column(&flat, "descriptor"));
    for row in 0..flat.num_rows() {
        assert_eq!(descriptors.value(row), ours.as_fixed_size_binary().value(row));
    }
    let scores = inner(&inner(column(&nested, "pca")));
    assert_eq!(floats(&scores), floats(&inner(column(&flat, "pca"))));
    // An image without features has empty lists, not nulls.
    assert_eq!(column(&nested, "x").null_count(), 0);
}

#[test]
fn padded_rows_have_one_length_and_zeros_at_the_end() {
    let bench = Bench::new();
    let pca = Some(PcaParams::new(4));
    let nested = bench.run("nested", with_rows(RowShape::Image), pca.clone());
    let n = 3;
    let padded = bench.run("padded", with_rows(RowShape::Padded(n)), pca);
    assert!(padded.column_by_name("x").is_none());
    assert_eq!(texts(&padded, "path"), texts(&nested, "path"));
    let counts = column(&padded, "n_keypoints").as_primitive::<Int32Type>();
    assert!(counts.values().iter().any(|&count| count as usize > n));
    let lists = |name: &str, row| floats(&column(&padded, name).as_fixed_size_list().value(row));
    let descriptors = column(&nested, "descriptor").as_list::<i32>();
    for row in 0..padded.num_rows() {
        let mut wanted: Vec<f32> = Vec::new();
        for descriptor in descriptors.value(row).as_binary::<i32>().iter().flatten().take(n) {
            wanted.extend(descriptor.iter().map(|&byte| f32::from(byte)));
        }
        wanted.resize(32 * n, 0.0);
        assert_eq!(lists("descriptor", row), wanted);
        let scores = column(&nested, "pca").as_list::<i32>().value(row);
        let mut wanted = floats(&inner(&scores));
        let start = scores.as_fixed_size_list().value_offset(0) as usize;
        wanted = wanted[start..start + 4 * scores.len()].iter().take(4 * n).copied().collect();
        wanted.resize(4 * n, 0.0);
        assert_eq!(lists("pca", row), wanted);
    }
}

/// The records of CSV files, the header of each first.
fn csv(paths: &[PathBuf]) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for path in paths {
        let mut bytes = fs::read(path).unwrap();
        if path.extension().is_some_and(|ending| ending == "gz") {
            let mut text = Vec::new();
            flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut text).unwrap();
            bytes = text;
        }
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&bytes[..]);
        let records =
            reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect());
        all.extend(records);
    }
    all
}

#[test]
fn csv_holds_the_same_rows_as_parquet() {
    let bench = Bench::new();
    let pca = Some(PcaParams::new(3));
    let rows = bench.run("parquet", FileParams::default(), pca.clone());
    let params = FileParams::default().with_format(FileFormat::Csv);
    let report = bench.try_run("csv", params.clone(), pca.clone()).unwrap();
    let paths = files(&bench.out("csv"), ".csv");
    let records = csv(&paths);
    let names: Vec<_> = rows.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!((records[0].clone(), records.len()), (names.clone(), rows.num_rows() + 1));
    let place = |name: &str| names.iter().position(|n| n == name).unwrap();
    let numbers = |text: &str| -> Vec<f32> {
        let inner = text.strip_prefix('[').unwrap().strip_suffix(']').unwrap();
        inner.split(", ").map(|number| number.parse().unwrap()).collect()
    };
    for (row, record) in records[1..].iter().enumerate() {
        assert_eq!(record[0], texts(&rows, "path")[row]);
        assert_eq!(
            record[place("angle")].parse::<f32>().unwrap(),
            floats(column(&rows, "angle"))[row]
        );
        let descriptor = column(&rows, "descriptor").as_fixed_size_binary().value(row);
        let bytes: Vec<f32> = descriptor.iter().map(|&byte| byte.into()).collect();
        assert_eq!(numbers(&record[place("descriptor")]), bytes);
        let scores = column(&rows, "pca").as_fixed_size_list().value(row);
        assert_eq!(numbers(&record[place("pca")]), floats(&scores));
    }
    let sizes = paths
        .iter()
        .chain(&files(&bench.out("csv/_images"), ".parquet"))
        .map(|path| fs::metadata(path).unwrap().len())
        .sum::<u64>();
    assert_eq!((report.sink.files, report.sink.bytes), (1, sizes));
    // Compressed, and with a column for each element.
    let wide = params.with_format(FileFormat::CsvColumns).with_codec(Codec::Gzip);
    bench.try_run("wide", wide, pca).unwrap();
    let wide = csv(&files(&bench.out("wide"), ".csv.gz"));
    assert_eq!((wide.len(), wide[0].len()), (records.len(), 12 + 32 + 3));
    assert_eq!(
        (&*wide[0][12], &*wide[0][43], &*wide[0][46]),
        ("descriptor_0", "descriptor_31", "pca_2")
    );
    for (wide, record) in wide[1..].iter().zip(&records[1..]) {
        let joined = |range: std::ops::Range<usize>| format!("[{}]", wide[range].join(", "));
        assert_eq!(joined(12..44), record[place("descriptor")]);
        assert_eq!(joined(44..47), record[place("pca")]);
    }
}

#[test]
fn csv_does_not_depend_on_threads_or_pieces() {
    let bench = Bench::new();
    let mut seen = Vec::new();
    for threads in [1, 2, 5] {
        let name = format!("t{threads}");
        let params = FileParams::default().with_format(FileFormat::Csv).with_codec(Codec::Gzip);
        let sink = FileSink::create(bench.out(&name), params).unwrap();
        // More rows than a piece has.
        let images = (0..40).flat_map(|_| images()).enumerate();
        let images = images.map(|(i, (name, bytes))| (format!("{i}/{name}"), bytes));
        Pipeline::new(MemorySource::new(images), orb(), sink)
            .with_on_error(OnError::Skip)
            .with_parallelism(Parallelism::new(threads).unwrap())
            .without_pca()
            .run()
            .unwrap();
        let [file] = &files(&bench.out(&name), ".csv.gz")[..] else { panic!("one file") };
        seen.push(fs::read(file).unwrap());
    }
    assert!(seen[0].len() > 100_000 && seen.iter().all(|bytes| *bytes == seen[0]));
}

#[test]
fn a_number_of_files_is_kept_to_the_row() {
    let bench = Bench::new();
    let whole = bench.run("whole", FileParams::default(), None);
    for (n, format, shape) in [
        (5, FileFormat::Parquet, RowShape::Descriptor),
        (1, FileFormat::Parquet, RowShape::Descriptor),
        (1000, FileFormat::Parquet, RowShape::Descriptor),
        (4, FileFormat::Csv, RowShape::Descriptor),
        (4, FileFormat::Csv, RowShape::Image),
    ] {
        let name = format!("{n} {format} {shape}");
        let params = with_rows(shape).with_files(n).with_format(format);
        let report = bench.try_run(&name, params.clone(), None).unwrap();
        let ending = if format == FileFormat::Csv { ".csv" } else { ".parquet" };
        let paths = files(&bench.out(&name), ending);
        assert_eq!((paths.len() as u32, report.sink.files), (n, n.into()), "{name}");
        let rows: Vec<u64> = paths
            .iter()
            .map(|path| match format {
                FileFormat::Parquet => {
                    let file = File::open(path).unwrap();
                    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
                    reader.metadata().file_metadata().num_rows() as u64
                }
                _ => csv(std::slice::from_ref(path)).len() as u64 - 1,
            })
            .collect();
        let total = if shape == RowShape::Image { 27 } else { whole.num_rows() as u64 };
        assert_eq!((rows.iter().sum::<u64>(), report.sink.rows), (total, total), "{name}");
        assert!(rows.iter().max().unwrap() - rows.iter().min().unwrap() <= 1, "{rows:?}");
        if format == FileFormat::Parquet {
            assert_eq!(rows_in(&bench.out(&name)), whole, "{name}");
        }
        // With a fit, too.
        let fitted = format!("{name} fitted");
        let report = bench.try_run(&fitted, params, Some(PcaParams::new(2))).unwrap();
        assert_eq!(report.sink.files, u64::from(n));
    }
    // Without a pipeline, the sink must be told.
    let params = FileParams::default().with_files(2);
    let mut sink = FileSink::create(bench.out("untold"), params.clone()).unwrap();
    let batches = || {
        let images = MemorySource::new(images()[..2].to_vec()).open().unwrap();
        images.features(&orb()).explode().map(Result::unwrap)
    };
    let error = sink.write(batches().next().unwrap()).unwrap_err().to_line();
    assert!(error.contains("known in advance"), "{error}");
    for (told, says) in [(1, "more rows than the 1 that"), (10_000, "announced")] {
        let mut sink = FileSink::create(bench.out("wrong"), params.clone()).unwrap();
        sink.expect(told, 0);
        let written = sink.write(batches().next().unwrap());
        let error = written.and_then(|()| sink.finish()).unwrap_err().to_line();
        assert!(error.contains(says), "{error}");
        assert!(!bench.out("wrong").exists());
    }
}

#[test]
fn every_image_is_listed_whatever_becomes_of_it() {
    let bench = Bench::new();
    for (name, policy) in [("skip", OnError::Skip), ("record", OnError::Record)] {
        let sink = FileSink::create(bench.out(name), FileParams::default()).unwrap();
        let report = Pipeline::new(MemorySource::new(images()), orb(), sink)
            .with_on_error(policy)
            .run()
            .unwrap();
        let list = rows_in(&bench.out(name).join("_images"));
        assert_eq!((list.num_rows(), report.sink.images), (30, 30));
        let names: Vec<_> = images().into_iter().map(|(name, _)| name).collect();
        assert_eq!(texts(&list, "path"), names, "in their order");
        let labels: Vec<_> =
            names.iter().map(|name| name.split_once('/').unwrap().0.to_owned()).collect();
        assert_eq!(texts(&list, "label"), labels, "of failed ones, too");
        let lengths = column(&list, "byte_len").as_primitive::<Int64Type>();
        let sizes: Vec<i64> = images().iter().map(|(_, bytes)| bytes.len() as i64).collect();
        assert_eq!(lengths.values().to_vec(), sizes);
        let counts = column(&list, "n_vectors").as_primitive::<Int32Type>();
        let rows = counts.iter().flatten().sum::<i32>();
        assert_eq!((rows as u64, counts.null_count()), (report.rows, 3));
        for i in 0..30 {
            let (status, cause) = (&*texts(&list, "status")[i], &*texts(&list, "cause")[i]);
            let width = column(&list, "image_width").as_primitive::<Int32Type>();
            match i % 10 {
                7 => assert_eq!((status, cause, width.is_null(i)), ("failed", "corrupt", true)),
                _ => assert_eq!((status, cause, width.is_null(i)), ("ok", "-", false)),
            }
        }
        assert_eq!(bench.out(name).join("_errors").exists(), policy == OnError::Record);
    }
    // An image of which no row fits into the batch with its first rows is listed once, with all of them.
    let images = MemorySource::new(images()[..2].to_vec()).open().unwrap();
    let mut sink = FileSink::create(bench.out("split"), FileParams::default()).unwrap();
    let mut rows = 0;
    for batch in images.features(&orb()).explode().with_batch_rows(2) {
        let batch = batch.unwrap();
        rows += batch.len();
        sink.write(batch).unwrap();
    }
    sink.finish().unwrap();
    let list = rows_in(&bench.out("split").join("_images"));
    let counts = column(&list, "n_vectors").as_primitive::<Int32Type>();
    assert_eq!((list.num_rows(), counts.values().iter().sum::<i32>() as usize), (2, rows));
}

#[test]
fn vectors_of_spark_are_told_in_every_footer() {
    let bench = Bench::new();
    let spark = TableParams::default().with_layout(Layout::Spark);
    let params = FileParams::default().with_table(spark).with_rows_per_file(50);
    let pca = Some(PcaParams::new(4));
    let rows = bench.run("spark", params, pca.clone());
    let plain = bench.run("plain", FileParams::default(), pca);
    for (name, len) in [("descriptor", 32), ("pca", 4)] {
        let vectors = column(&rows, name).as_struct();
        assert!(vectors.column(0).as_primitive::<Int8Type>().values().iter().all(|&t| t == 1));
        assert_eq!(
            vectors.column(1).null_count() + vectors.column(2).null_count(),
            2 * rows.num_rows()
        );
        let lists = vectors.column(3).as_list::<i32>();
        assert!((0..rows.num_rows()).all(|row| lists.value_length(row) == len));
    }
    let values = inner(column(&rows, "pca").as_struct().column(3));
    let scores: Vec<f32> =
        values.as_primitive::<Float64Type>().values().iter().map(|&v| v as f32).collect();
    assert_eq!(scores, floats(&inner(column(&plain, "pca"))));
    let mut described = Vec::new();
    for path in files(&bench.out("spark"), ".parquet") {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
        described.push(reader.schema().metadata()[ROW_METADATA].clone());
    }
    assert!(described.len() > 2 && described.iter().all(|json| *json == described[0]));
    assert!(described[0].contains("org.apache.spark.ml.linalg.VectorUDT"));
}

#[test]
fn pixels_are_those_that_are_decoded() {
    let bench = Bench::new();
    let table = TableParams::default().with_rows(RowShape::Image).with_image(true);
    for layout in Layout::ALL {
        let params = FileParams::default().with_table(table.with_layout(layout)).with_files(2);
        let rows = bench.run(layout.as_str(), params, None);
        let image = column(&rows, "image").as_struct();
        let good = images().into_iter().filter(|(name, _)| !name.starts_with("bad"));
        for (row, (name, bytes)) in good.enumerate() {
            let is_gray = name.starts_with("flat");
            let format = if is_gray { PixelFormat::Gray } else { PixelFormat::Bgr };
            let object = ImageObject::new(name.as_str(), bytes);
            let mut decoder = Decoder::new(DecodeParams::default());
            let pixels = decoder.decode_object(&object, PixelSpec::new(format)).unwrap().pixels;
            assert_eq!(image.column_by_name("origin").unwrap().as_string::<i32>().value(row), name);
            let data = image.column_by_name("data").unwrap().as_binary::<i32>().value(row);
            assert_eq!(data, pixels.as_bytes());
            let numbers = ["height", "width", "nChannels", "mode"]
                .map(|n| image.column_by_name(n).unwrap().as_primitive::<Int32Type>().value(row));
            let (w, h) = (pixels.width() as i32, pixels.height() as i32);
            let kind = if is_gray { [1, 0] } else { [3, 16] };
            assert_eq!(numbers, [h, w, kind[0], kind[1]]);
        }
    }
}

#[test]
fn what_does_not_go_together_is_refused() {
    let bench = Bench::new();
    let spark = TableParams::default().with_layout(Layout::Spark);
    for (params, names) in [
        (FileParams::default().with_format(FileFormat::Csv).with_table(spark), "format"),
        (FileParams::default().with_format(FileFormat::Csv).with_codec(Codec::Snappy), "codec"),
        (with_rows(RowShape::Image).with_format(FileFormat::CsvColumns), "format"),
        (with_rows(RowShape::Padded(0)), "rows"),
        (FileParams::default().with_table(TableParams::default().with_image(true)), "image"),
        (FileParams::default().with_files(0), "files"),
        (FileParams::default().with_files(3).with_rows_per_file(9), "files"),
    ] {
        let error = FileSink::create(bench.out("x"), params).unwrap_err();
        assert!(matches!(error, Error::InvalidParam { name, .. } if name == names), "{error}");
    }
    assert!(!bench.out("x").exists());
    let descriptors = VectorFormat::u8(32);
    let padded = |n| TableParams::default().with_rows(RowShape::Padded(n));
    padded(1 << 19).check_for(descriptors, Some(20)).unwrap();
    padded((1 << 19) + 1).check_for(descriptors, Some(20)).unwrap_err();
    padded(1 << 19).check_for(descriptors, Some(33)).unwrap_err();
    let error = bench.try_run("x", with_rows(RowShape::Padded(1 << 20)), None).unwrap_err();
    assert!(error.to_line().contains("padded:N of 1 to 524288"), "{error}");
    // A stop is heard while many files are made.
    let sink = FileSink::create(bench.out("x"), FileParams::default().with_files(100_000)).unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let job = Pipeline::new(MemorySource::new(images()), orb(), sink)
        .without_pca()
        .with_on_error(OnError::Skip)
        .with_stop(stop);
    std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(matches!(job.run().unwrap_err(), Error::Interrupted));
    assert!(!bench.out("x").exists());
    // An image whose rows are not all in one batch.
    let mut sink = FileSink::create(bench.out("y"), with_rows(RowShape::Image)).unwrap();
    let images = MemorySource::new(images()[..1].to_vec()).open().unwrap();
    let batch = images.features(&orb()).explode().with_batch_rows(2).next().unwrap().unwrap();
    let written = sink.write(batch).and_then(|()| sink.finish());
    let error = written.unwrap_err().to_line();
    assert!(error.contains("not all in one batch"), "{error}");
}

#[test]
fn csv_is_added_to_only_by_its_like() {
    let bench = Bench::new();
    let csv = FileParams::default().with_format(FileFormat::Csv);
    bench.try_run("out", csv.clone(), Some(PcaParams::new(3))).unwrap();
    let append = csv.with_mode(WriteMode::Append);
    for (params, pca, says) in [
        (append.clone(), Some(PcaParams::new(4)), "columns differ"),
        (append.clone().with_format(FileFormat::Parquet), Some(PcaParams::new(3)), "format"),
        (append.clone().with_format(FileFormat::CsvColumns), Some(PcaParams::new(3)), "columns"),
        (append.clone(), None, "columns differ"),
    ] {
        let error = bench.try_run("out", params, pca).unwrap_err().to_line();
        assert!(error.contains(says), "{error}");
    }
    // The fit is compared by the notes beside the rows.
    let spark = PcaParams::new(3).with_centering(Centering::None);
    let error = bench.try_run("out", append.clone(), Some(spark)).unwrap_err().to_line();
    assert!(error.contains("center: there mean, in this job none"), "{error}");
    let rows = |n| assert_eq!(files(&bench.out("out"), ".csv").len(), n);
    rows(1);
    bench.try_run("out", append, Some(PcaParams::new(3))).unwrap();
    rows(2);
    // An overwrite takes the old files away, whatever their format.
    let overwrite = FileParams::default().with_mode(WriteMode::Overwrite);
    bench.try_run("out", overwrite, Some(PcaParams::new(3))).unwrap();
    rows(0);
    assert_eq!(files(&bench.out("out/_images"), ".parquet").len(), 1);
}

#[test]
fn bits_are_scored_as_numbers_of_zero_and_one() {
    let bench = Bench::new();
    let bits = PcaParams::new(5).with_input(PcaInput::Bits);
    let rows = bench.run("bits", FileParams::default(), Some(bits.clone()));
    let descriptors = column(&rows, "descriptor").as_fixed_size_binary();
    let n = rows.num_rows();
    let unpacked: Vec<f32> = (0..n)
        .flat_map(|row| descriptors.value(row).iter())
        .flat_map(|&byte| (0..8).rev().map(move |bit| f32::from(byte >> bit & 1)))
        .collect();
    let unpacked = ndarray::Array2::from_shape_vec((n, 256), unpacked).unwrap();
    let mut moments = Moments::new_f32(256);
    moments.push_rows_f32(unpacked.view()).unwrap();
    let plain = moments.fit(&PcaParams::new(5)).unwrap();
    let wanted = plain.project(unpacked.view()).unwrap();
    let scores = floats(&inner(column(&rows, "pca")));
    for (score, wanted) in scores.iter().zip(&wanted) {
        assert!((f64::from(*score) - wanted).abs() < 1e-5, "{score} {wanted}");
    }
    // The model says what it is for, in its file too, and takes nothing else.
    let mut moments = Moments::of_bits(32);
    let bytes: Vec<u8> = (0..n).flat_map(|row| descriptors.value(row).to_vec()).collect();
    let bytes = ndarray::Array2::from_shape_vec((n, 32), bytes).unwrap();
    let (top, bottom) = bytes.view().split_at(ndarray::Axis(0), n / 3);
    let mut other = Moments::from_bytes(&moments.to_bytes()).unwrap();
    moments.push_rows(bottom).unwrap();
    other.push_rows(top).unwrap();
    moments.merge(&other).unwrap();
    assert_eq!(Moments::from_bytes(&moments.to_bytes()).unwrap(), moments);
    moments.fit(&PcaParams::new(5)).unwrap_err();
    let mut of_bytes = Moments::new(256);
    of_bytes.push_rows(ndarray::Array2::ones((3, 256)).view()).unwrap();
    moments.clone().merge(&of_bytes).unwrap_err();
    let model = moments.fit(&bits).unwrap();
    let path = bench.out("model.json");
    model.save(&path).unwrap();
    assert_eq!(PcaModel::load(&path).unwrap(), model);
    assert_eq!((model.input(), model.dimensions()), (PcaInput::Bits, 256));
    model.check_format(VectorFormat::u8(32)).unwrap();
    model.check_format(VectorFormat::u8(256)).unwrap_err();
    let scores = model
        .project_vectors(Vectors::from_u8(bytes.into_raw_vec_and_offset().0, 32).unwrap().view());
    for (score, wanted) in scores.unwrap().iter().zip(&wanted) {
        assert!((score - wanted).abs() < 1e-9);
    }
    let floats = Vectors::from_f32(vec![0.5; 5000], 5000).unwrap();
    let mut batch = RowBatch::new(floats.format());
    let meta = Arc::new(ImageMeta::new("a"));
    batch.push(&ImageFeatures::new(meta, floats)).unwrap();
    let spooled = [Ok(batch)].into_iter().spool(&Spool::default(), PcaInput::Bits);
    assert!(matches!(spooled.unwrap_err(), Error::InvalidParam { name: "pca_input", .. }));
    let floats = PcaParams::new(5).with_input(PcaInput::Bits).check_for(VectorFormat::f32(9));
    assert!(matches!(floats.unwrap_err(), Error::InvalidParam { name: "pca_input", .. }));
}
