//! Tables that others have written: images of a column, and the PCA of a column of vectors.
#![cfg(all(feature = "jpeg", feature = "table"))]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, Float64Builder, Int32Builder, ListBuilder};
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float32Type, Int32Type};
use arrow_array::{
    Array as _, ArrayRef, BinaryArray, Float64Array, Int8Array, Int32Array, ListArray, RecordBatch,
    StringArray, StructArray,
};
use arrow_schema::{DataType, Field, Schema};
use ndarray::Array2;
use orb_features::prelude::*;
use orb_features::table::{ImageTable, TablePca, TableSource};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use testkit::parquet::rows_in;
use testkit::photos;
use testkit::rows::{OrbRow, rows};

fn write(path: &Path, columns: Vec<(&str, ArrayRef)>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let fields = columns.iter().map(|(name, c)| Field::new(*name, c.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// A file with this ending.
fn first(folder: &Path, ending: &str) -> PathBuf {
    let mut files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.extension().is_some_and(|e| e == ending)).unwrap()
}

fn images() -> Vec<(String, Vec<u8>)> {
    (0..12)
        .map(|i| (format!("kind {}/{i:02}.jpg", i % 4), photos::photo(i % 6, i as u32).unwrap()))
        .collect()
}

fn rows_of(images: impl ImageSource) -> Vec<OrbRow> {
    let orb = OrbParams::default().build().unwrap();
    let batches = images.open().unwrap().features(&orb).explode();
    batches.flat_map(|batch| rows(&batch.unwrap())).collect()
}

/// Origin, height, width, channels and data of an image.
type SparkImage = (&'static str, i32, i32, i32, Vec<u8>);

/// Spark's `image` structs.
fn spark_images(images: &[SparkImage]) -> ArrayRef {
    let ints = |value: fn(&SparkImage) -> i32| -> ArrayRef {
        Arc::new(images.iter().map(|image| Some(value(image))).collect::<Int32Array>())
    };
    let mut data = BinaryBuilder::new();
    for image in images {
        data.append_value(&image.4);
    }
    let origin: ArrayRef = Arc::new(images.iter().map(|i| Some(i.0)).collect::<StringArray>());
    let columns = [
        ("origin", origin),
        ("height", ints(|i| i.1)),
        ("width", ints(|i| i.2)),
        ("nChannels", ints(|i| i.3)),
        ("mode", ints(|i| if i.3 == 3 { 16 } else { 0 })),
        ("data", Arc::new(data.finish()) as ArrayRef),
    ];
    let columns = columns.into_iter().map(|(name, column)| {
        (Arc::new(Field::new(name, column.data_type().clone(), true)), column)
    });
    Arc::new(StructArray::from(columns.collect::<Vec<_>>()))
}

#[test]
fn encoded_images_of_a_column_are_as_in_files() {
    let root = tempfile::tempdir().unwrap();
    let images = images();
    for (part, some) in images.chunks(5).enumerate() {
        let paths: ArrayRef = Arc::new(some.iter().map(|(p, _)| Some(p)).collect::<StringArray>());
        let bytes = some.iter().map(|(_, bytes)| bytes.as_slice());
        let bytes: ArrayRef = Arc::new(BinaryArray::from_iter_values(bytes));
        let name = format!("t/part-{part:05}.snappy.parquet");
        write(&root.path().join(name), vec![("path", paths), ("content", bytes)]);
    }
    // What Spark and this crate leave beside a table is not part of it.
    for name in ["t/_SUCCESS", "t/._SUCCESS.crc", "t/_images/x.parquet", "t/.x.parquet"] {
        fs::create_dir_all(root.path().join("t/_images")).unwrap();
        fs::write(root.path().join(name), b"no table").unwrap();
    }
    let table = || ImageTable::new(TableSource::in_folder(root.path().join("t")));
    let wanted = rows_of(MemorySource::new(images.clone()));
    assert!(wanted.len() > 50);
    assert_eq!(rows_of(table()), wanted);
    assert_eq!(rows_of(table().with_column("content")), wanted);
    let one = root.path().join("t/part-00000.snappy.parquet");
    assert_eq!(
        rows_of(ImageTable::new(TableSource::in_folder(one))),
        wanted[..rows_of(MemorySource::new(images[..5].to_vec())).len()]
    );
    // Labels by the rule, by a column, and names by file and row.
    let labels = |table: ImageTable| -> Vec<_> {
        table.open().unwrap().map(|image| image.unwrap().label).collect()
    };
    assert_eq!(labels(table())[..2], [Some("kind 0".to_owned()), Some("kind 1".to_owned())]);
    assert_eq!(labels(table().with_label(LabelRule::None))[0], None);
    let label: ArrayRef = Arc::new(StringArray::from(vec![Some("mine"), None]));
    let image: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"P5 1 1 255\n\x07"; 2]));
    let path = root.path().join("u.parquet");
    write(&path, vec![("label", label), ("photo", image)]);
    let table = ImageTable::new(TableSource::in_folder(&path)).with_column("photo");
    let found: Vec<_> = table.open().unwrap().map(Result::unwrap).collect();
    assert_eq!(found[0].label.as_deref(), Some("mine"));
    assert!(found[1].uri.ends_with("u.parquet#1"), "{}", found[1].uri);
}

#[test]
fn structs_of_spark_keep_their_pixels() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("i.parquet");
    let bgr: Vec<u8> = (0..2 * 3 * 3).collect();
    let bgra: Vec<u8> = (0..2 * 3 * 4).collect();
    write(
        &path,
        vec![(
            "image",
            spark_images(&[
                ("a/1", 2, 3, 3, bgr.clone()),
                ("a/2", 2, 3, 1, vec![5; 6]),
                ("a/3", 2, 3, 4, bgra.clone()),
                ("b/4", 2, 3, 3, vec![0; 7]),
                ("b/5", -1, -1, -1, Vec::new()),
            ]),
        )],
    );
    let images: Vec<_> = ImageTable::new(TableSource::in_folder(&path)).open().unwrap().collect();
    let decoded = |i: usize, format| {
        let object = images[i].as_ref().unwrap();
        let mut decoder = Decoder::new(DecodeParams::default());
        decoder.decode_object(object, PixelSpec::new(format)).unwrap().pixels
    };
    assert_eq!(decoded(0, PixelFormat::Bgr).as_bytes(), bgr);
    assert_eq!(decoded(1, PixelFormat::Gray).as_bytes(), [5; 6]);
    let colors: Vec<u8> = bgra.as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect();
    assert_eq!(decoded(2, PixelFormat::Bgr).as_bytes(), colors);
    for (i, uri) in [(3, "b/4"), (4, "b/5")] {
        let error = images[i].as_ref().unwrap_err();
        let image = error.image().unwrap();
        assert_eq!((&**image, image.label()), (uri, Some("b")));
    }
    assert_eq!(images.len(), 5, "a bad image does not end the table");
}

#[test]
fn a_file_that_is_no_table_of_images_ends_the_job() {
    let root = tempfile::tempdir().unwrap();
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let good = root.path().join("t/a.parquet");
    write(&good, vec![("n", numbers)]);
    for (column, says) in
        [(None, "no column \"content\""), (Some("n"), "holds Float64, not images")]
    {
        let mut table = ImageTable::new(TableSource::in_folder(root.path().join("t")));
        if let Some(column) = column {
            table = table.with_column(column);
        }
        let all: Vec<_> = table.open().unwrap().collect();
        let [Err(error)] = &all[..] else { panic!("one error") };
        assert!(error.to_line().contains(says) && error.to_line().contains("a.parquet"), "{error}");
        assert!(!error.is_of_one_image());
    }
    for bytes in [&b"PAR1"[..], b"", b"no parquet at all, but long enough for a footer"] {
        fs::write(&good, bytes).unwrap();
        let table = ImageTable::new(TableSource::in_folder(&good)).open().unwrap().next();
        assert!(matches!(table, Some(Err(Error::Table { .. }))), "{table:?}");
    }
    let missing = ImageTable::new(TableSource::in_folder(root.path().join("none"))).open();
    assert!(matches!(missing.unwrap_err(), Error::List { .. }));
    fs::create_dir(root.path().join("empty")).unwrap();
    let empty = ImageTable::new(TableSource::in_folder(root.path().join("empty"))).open();
    assert!(matches!(empty.unwrap().next(), Some(Err(Error::NoInput { .. }))));
}

/// Vectors with some structure.
fn vectors(n: usize, d: usize) -> Array2<f32> {
    Array2::from_shape_fn((n, d), |(i, j)| {
        let noise = (i * 7919 + j * 104_729) % 1009;
        ((i % 13) as f32 * (j as f32 * 0.3).sin())
            + (i / 13 * (j % 5)) as f32 * 0.1
            + noise as f32 * 1e-3
    })
}

/// Vectors as Spark's: those with an even number dense, the others sparse.
fn spark_vectors(vectors: &Array2<f32>) -> ArrayRef {
    let n = vectors.nrows();
    let kinds = Int8Array::from_iter_values((0..n).map(|i| (i % 2 == 0).into()));
    let mut sizes = Int32Builder::new();
    let element = |data_type| Field::new("element", data_type, false);
    let mut indices = ListBuilder::new(Int32Builder::new()).with_field(element(DataType::Int32));
    let mut values = ListBuilder::new(Float64Builder::new()).with_field(element(DataType::Float64));
    for (i, row) in vectors.rows().into_iter().enumerate() {
        if i % 2 == 0 {
            sizes.append_null();
            indices.append_null();
            row.iter().for_each(|&v| values.values().append_value(v.into()));
        } else {
            sizes.append_value(row.len() as i32);
            for (j, &v) in row.iter().enumerate().filter(|(_, v)| **v != 0.0) {
                indices.values().append_value(j as i32);
                values.values().append_value(v.into());
            }
            indices.append(true);
        }
        values.append(true);
    }
    let columns: [(&str, ArrayRef, bool); 4] = [
        ("type", Arc::new(kinds), false),
        ("size", Arc::new(sizes.finish()), true),
        ("indices", Arc::new(indices.finish()), true),
        ("values", Arc::new(values.finish()), true),
    ];
    let columns = columns.into_iter().map(|(name, column, nullable)| {
        (Arc::new(Field::new(name, column.data_type().clone(), nullable)), column)
    });
    Arc::new(StructArray::from(columns.collect::<Vec<_>>()))
}

fn scores(table: &RecordBatch, name: &str) -> Vec<f32> {
    let lists = table.column_by_name(name).unwrap().as_fixed_size_list();
    lists.values().as_primitive::<Float32Type>().values().to_vec()
}

#[test]
fn a_column_of_vectors_is_reduced_and_the_rest_is_kept() {
    let root = tempfile::tempdir().unwrap();
    let (n, d, k) = (90, 12, 4);
    let all = vectors(n, d);
    let names: Vec<String> = (0..n).map(|i| format!("row, \"{i}\"")).collect();
    let texts: Vec<String> = all
        .rows()
        .into_iter()
        .map(|row| format!("[{}]", row.iter().map(f32::to_string).collect::<Vec<_>>().join(", ")))
        .collect();
    let spark = root.path().join("spark/part-0.parquet");
    let name = || Arc::new(StringArray::from(names.clone())) as ArrayRef;
    write(&spark, vec![("name", name()), ("features", spark_vectors(&all))]);
    let csv_path = root.path().join("csv/a.csv");
    fs::create_dir(root.path().join("csv")).unwrap();
    let mut writer = csv::Writer::from_path(&csv_path).unwrap();
    writer.write_record(["name", "features"]).unwrap();
    for (name, text) in names.iter().zip(&texts) {
        writer.write_record([name, text]).unwrap();
    }
    writer.flush().unwrap();

    let mut moments = Moments::new_f32(d);
    moments.push_rows_f32(all.view()).unwrap();
    let model = moments.fit(&PcaParams::new(k)).unwrap();
    let wanted: Vec<f32> =
        model.project(all.view()).unwrap().iter().map(|&score| score as f32).collect();
    for folder in ["spark", "csv"] {
        let out = root.path().join(format!("{folder}-out"));
        let table = TableSource::in_folder(root.path().join(folder));
        let job = TablePca::new(table, "features").with_pca(PcaParams::new(k));
        let sink = RecordSink::create(&out, FileParams::default().with_files(2)).unwrap();
        let report = job.clone().run(sink).unwrap();
        assert_eq!((report.rows, report.vector_len, report.sink.files), (n as u64, d, 2));
        assert_eq!(report.model.n_components, k);
        let table = rows_in(&out);
        assert_eq!(scores(&table, "pca"), wanted, "{folder}");
        let kept = table.column_by_name("name").unwrap().as_string::<i32>();
        assert_eq!(kept.iter().flatten().collect::<Vec<_>>(), names);
        // Onto the model, under another name, in any number of threads, and as Spark's vectors in CSV.
        let out = root.path().join(format!("{folder}-again"));
        let params = FileParams::default().with_files(1);
        let again = job
            .clone()
            .with_model(report.pca_model.unwrap())
            .with_output_column("s")
            .with_parallelism(Parallelism::new(3).unwrap());
        again.run(RecordSink::create(&out, params).unwrap()).unwrap();
        assert_eq!(scores(&rows_in(&out), "s"), wanted, "{folder}");
        let out = root.path().join(format!("{folder}-csv"));
        let params = FileParams::default().with_format(FileFormat::Csv);
        job.run(RecordSink::create(&out, params).unwrap()).unwrap();
        let file = first(&out, "csv");
        let mut reader = csv::Reader::from_path(file).unwrap();
        let records: Vec<_> = reader.records().map(Result::unwrap).collect();
        assert_eq!((records.len(), &records[7][0]), (n, &*names[7]));
        assert_eq!(&records[6][2], format!("{:?}", &wanted[6 * k..7 * k]));
    }
    // Spark's own vectors pass through, and Spark is told.
    let reader = rows_in(&root.path().join("spark-out"));
    assert!(matches!(reader.column_by_name("features").unwrap().data_type(), DataType::Struct(_)));
    let part = File::open(first(&root.path().join("spark-out"), "parquet")).unwrap();
    let part = ParquetRecordBatchReaderBuilder::try_new(part).unwrap();
    let notes = format!("{:?}", part.schema().metadata());
    assert!(notes.contains("VectorUDT"), "{notes}");
}

#[test]
fn vectors_too_long_for_a_covariance_matrix_are_read_in_passes() {
    let root = tempfile::tempdir().unwrap();
    let (n, d, k) = (60, 5000, 3);
    let bytes = Array2::from_shape_fn((n, d), |(i, j)| ((i * (j % 11) + j * 3) % 256) as u8);
    let column = bytes.rows().into_iter().map(|row| row.to_vec());
    let column: ArrayRef = Arc::new(BinaryArray::from_iter_values(column));
    write(&root.path().join("t.parquet"), vec![("vector", column)]);
    let table = TableSource::in_folder(root.path().join("t.parquet"));
    let sink = RecordSink::create(root.path().join("out"), FileParams::default()).unwrap();
    let report = TablePca::new(table, "vector").with_pca(PcaParams::new(k)).run(sink).unwrap();
    let model = report.pca_model.unwrap();
    assert_eq!((model.element(), model.dimensions()), (orb_features::features::Element::U8, d));
    // The covariance of the rows has the same variances as that of the elements.
    let centred = bytes.mapv(f64::from) - model.mean();
    let gram = centred.dot(&centred.t()) / (n as f64 - 1.0);
    let gram = nalgebra::DMatrix::from_fn(n, n, |i, j| gram[(i, j)]);
    let mut variances: Vec<f64> = gram.symmetric_eigenvalues().iter().copied().collect();
    variances.sort_by(|a, b| b.total_cmp(a));
    for (ours, theirs) in model.explained_variance().iter().zip(&variances) {
        assert!((ours - theirs).abs() < 1e-6 * variances[0], "{ours} {theirs}");
    }
}

#[test]
fn what_is_no_vector_is_named_and_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let out = root.path().join("out");
    let try_on = |name: &str, column: &str, pca: PcaParams| {
        let table = TableSource::in_folder(root.path().join(name));
        let sink = RecordSink::create(&out, FileParams::default()).unwrap();
        let error = TablePca::new(table, column).with_pca(pca).run(sink).unwrap_err();
        assert!(!out.exists());
        error.to_line()
    };
    let csv = |name: &str, text: &str| fs::write(root.path().join(name), text).unwrap();
    csv("good.csv", "v,pca\n\"[1, 2]\",\n\"[2, 1]\",\n\"[5, 1]\",\n");
    csv("odd.csv", "v\n\"[1, 2]\"\n\"[1, 2]\"\nbanana\n");
    csv("short.csv", "v\n\"[1, 2]\"\n\"[1]\"\n");
    csv("nan.csv", "v\n\"[1, 2]\"\n\"[1, inf]\"\n");
    csv("torn.csv", "v,w\n\"[1, 2]\",a\n\"[1, 2]\"\n");
    let pca = || PcaParams::new(1);
    for (name, column, says) in [
        ("good.csv", "w", "no column \"w\"; its columns are v, pca"),
        ("good.csv", "v", "a column \"pca\" already"),
        ("odd.csv", "v", "column \"v\": row 2 is no vector: \"banana\""),
        ("short.csv", "v", "row 1 has 1 elements, the rows before it have 2"),
        ("nan.csv", "v", "row 1 has an element that is not finite"),
        ("torn.csv", "v", "torn.csv"),
    ] {
        let line = try_on(name, column, pca());
        assert!(line.contains(says) && line.contains(name), "{line}");
    }
    csv("plain.csv", "v\n\"[1, 2]\"\n\"[2, 1]\"\n\"[5, 1]\"\n");
    let line = try_on("plain.csv", "v", PcaParams::new(3));
    assert!(line.contains("1 to 2"), "{line}");
    csv("head.csv", "v\n");
    let line = try_on("head.csv", "v", pca());
    assert!(line.contains("0 rows"), "{line}");
    let nulls: ArrayRef = Arc::new(StringArray::from(vec![Some("[1, 2]"), None]));
    write(&root.path().join("null.parquet"), vec![("v", nulls)]);
    let line = try_on("null.parquet", "v", pca());
    assert!(line.contains("row 1 is null"), "{line}");
    assert!(
        fs::read_dir(root.path())
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_str().unwrap().starts_with(".out") })
    );
}

#[test]
#[cfg(unix)]
fn a_file_that_cannot_be_read_ends_the_table_and_the_job() {
    let root = tempfile::tempdir().unwrap();
    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"P5 1 1 255\n\x07"; 2]));
    for name in ["a", "c"] {
        let path = root.path().join(format!("t/{name}.parquet"));
        write(&path, vec![("content", Arc::clone(&bytes))]);
    }
    std::os::unix::fs::symlink("nowhere", root.path().join("t/b.parquet")).unwrap();
    let images = ImageTable::new(TableSource::in_folder(root.path().join("t")));
    let sink = FileSink::create(root.path().join("out"), FileParams::default()).unwrap();
    let gray = PixelParams::default().with_size(1, 1).build().unwrap();
    let job = Pipeline::new(images, gray, sink).without_pca().with_on_error(OnError::Skip);
    let error = job.run().unwrap_err();
    assert!(matches!(&error, Error::Table { uri, .. } if uri.ends_with("b.parquet")), "{error}");
    assert!(!root.path().join("out").exists());
}

#[test]
fn labels_may_be_categories_or_numbers_and_names_may_be_missing() {
    let root = tempfile::tempdir().unwrap();
    let image = || Arc::new(BinaryArray::from_vec(vec![b"P5 1 1 255\n\x07"; 3])) as ArrayRef;
    let categories = [Some("pear"), None, Some("fig")].into_iter();
    let categories: arrow_array::DictionaryArray<Int32Type> = categories.collect();
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![7, 8, 9]));
    for (name, label, wanted) in [
        ("d", Arc::new(categories) as ArrayRef, [Some("pear"), None, Some("fig")]),
        ("n", numbers, [Some("7"), Some("8"), Some("9")]),
    ] {
        let path = root.path().join(format!("{name}.parquet"));
        write(&path, vec![("label", label), ("content", image())]);
        let images = ImageTable::new(TableSource::in_folder(path)).open().unwrap();
        let labels: Vec<_> = images.map(|image| image.unwrap().label).collect();
        assert_eq!(labels, wanted.map(|label| label.map(str::to_owned)));
    }
    // Without names there is no folder to be labelled by.
    let path = root.path().join("x.parquet");
    write(&path, vec![("content", image())]);
    let images = ImageTable::new(TableSource::in_folder(&path)).open().unwrap();
    assert!(images.map(Result::unwrap).all(|image| image.label.is_none()));
    let odd: ArrayRef = Arc::new(Float64Array::from(vec![0.5; 3]));
    write(&path, vec![("label", odd), ("content", image())]);
    let error = ImageTable::new(TableSource::in_folder(&path)).open().unwrap().next();
    let Some(Err(error)) = error else { panic!("{error:?}") };
    assert!(error.to_line().contains("\"label\" holds Float64, not texts"), "{error}");
}

#[test]
fn long_sparse_vectors_are_made_a_few_at_a_time() {
    let root = tempfile::tempdir().unwrap();
    let (n, d) = (20, 1 << 15);
    let mut all = Array2::zeros((n, d));
    for i in 0..n {
        (all[(i, 3)], all[(i, i)], all[(i, d - 1)]) = (i as f32, 1.0, (i % 7) as f32);
    }
    // All sparse: the dense ones have even numbers.
    let both = ndarray::concatenate(ndarray::Axis(0), &[all.view(), all.view()]).unwrap();
    let order: Vec<usize> = (0..n).flat_map(|i| [i, i + n]).collect();
    let both = both.select(ndarray::Axis(0), &order);
    let column = spark_vectors(&both);
    let sparse = column.as_struct().slice(1, 1);
    assert_eq!(sparse.column(0).as_primitive::<arrow_array::types::Int8Type>().value(0), 0);
    write(&root.path().join("t.parquet"), vec![("v", column)]);
    let table = TableSource::in_folder(root.path().join("t.parquet"));
    let sink = RecordSink::create(root.path().join("out"), FileParams::default()).unwrap();
    let report = TablePca::new(table, "v").with_pca(PcaParams::new(3)).run(sink).unwrap();
    assert_eq!((report.rows, report.vector_len), (2 * n as u64, d));
    let scores = scores(&rows_in(&root.path().join("out")), "pca");
    // A vector and its twin, dense and sparse, have the same scores.
    assert!(scores.chunks(6).all(|twins| twins[..3] == twins[3..]));
}

#[test]
fn files_of_a_table_have_the_same_columns() {
    let root = tempfile::tempdir().unwrap();
    let column = || Arc::new(StringArray::from(vec!["[1, 2]", "[2, 1]"])) as ArrayRef;
    write(&root.path().join("t/a.parquet"), vec![("v", column())]);
    write(&root.path().join("t/b.parquet"), vec![("v", column()), ("w", column())]);
    let table = TableSource::in_folder(root.path().join("t"));
    let sink = RecordSink::create(root.path().join("out"), FileParams::default()).unwrap();
    let error = TablePca::new(table, "v").with_pca(PcaParams::new(1)).run(sink).unwrap_err();
    let line = error.to_line();
    assert!(line.contains("b.parquet") && line.contains("differ from those of"), "{line}");
    // A model for vectors of another length names the file, too.
    let table = TableSource::in_folder(root.path().join("t/a.parquet"));
    let mut moments = Moments::new_f32(3);
    moments.push_rows_f32(vectors(9, 3).view()).unwrap();
    let model = moments.fit(&PcaParams::new(1)).unwrap();
    let sink = RecordSink::create(root.path().join("out"), FileParams::default()).unwrap();
    let error = TablePca::new(table, "v").with_model(model).run(sink).unwrap_err().to_line();
    assert!(error.contains("a.parquet") && error.contains("3 elements, not of 2"), "{error}");
}

#[test]
fn a_csv_of_any_columns_tells_nulls_and_is_added_to() {
    let root = tempfile::tempdir().unwrap();
    let lists = [Some(vec![Some(1), None]), None, Some(vec![])];
    let lists: ArrayRef = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists));
    let fixed = [Some(vec![Some(1), None]), None, Some(vec![Some(3), Some(4)])];
    let fixed = arrow_array::FixedSizeListArray::from_iter_primitive::<Int32Type, _, _>(fixed, 2);
    let fields = [
        Field::new("list", lists.data_type().clone(), true),
        Field::new("pair", fixed.data_type().clone(), true),
    ];
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let batch = RecordBatch::try_new(schema, vec![lists, Arc::new(fixed)]).unwrap();
    let out = root.path().join("out");
    let csv = FileParams::default().with_format(FileFormat::CsvColumns);
    for mode in [WriteMode::Error, WriteMode::Append] {
        let mut sink = RecordSink::create(&out, csv.clone().with_mode(mode)).unwrap();
        sink.write(batch.clone()).unwrap();
        assert_eq!(sink.finish().unwrap().rows, 3);
    }
    let files = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files.filter(|p| p.extension().is_some_and(|e| e == "csv")).collect();
    assert_eq!(files.len(), 2);
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        assert_eq!(text, "list,pair_0,pair_1\n\"[1, null]\",1,\n,,\n[],3,4\n");
    }
    // Other columns are not added.
    let other = batch.project(&[0]).unwrap();
    let mut sink = RecordSink::create(&out, csv.clone().with_mode(WriteMode::Append)).unwrap();
    assert!(sink.write(other).unwrap_err().to_line().contains("columns differ"));
    // Two columns of one name.
    let pair = batch.column(1);
    let fields = vec![batch.schema().field(1).clone(), Field::new("pair_0", DataType::Int32, true)];
    let columns = vec![Arc::clone(pair), Arc::new(Int32Array::from(vec![1; 3])) as ArrayRef];
    let twice = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let mut sink = RecordSink::create(root.path().join("twice"), csv).unwrap();
    let error = sink.write(twice).unwrap_err().to_line();
    assert!(error.contains("two columns have the name \"pair_0\""), "{error}");
}

#[test]
fn a_table_of_others_is_written_by_its_columns() {
    let root = tempfile::tempdir().unwrap();
    // Text under the name of a column of numbers, and metadata that differs.
    let sizes: ArrayRef = Arc::new(StringArray::from(vec!["large"; 1000]));
    let field = Field::new("size", DataType::Utf8, false);
    let batch = |note: &str| {
        let metadata = [("pandas".to_owned(), note.to_owned())].into();
        let schema = Schema::new_with_metadata(vec![field.clone()], metadata);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::clone(&sizes)]).unwrap()
    };
    let mut sink = RecordSink::create(root.path().join("out"), FileParams::default()).unwrap();
    sink.write(batch("a")).unwrap();
    sink.write(batch("b")).unwrap();
    assert_eq!(sink.finish().unwrap().rows, 2000);
    let file = File::open(first(&root.path().join("out"), "parquet")).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    assert!(reader.metadata().row_group(0).column(0).dictionary_page_offset().is_some());
    let csv = FileParams::default().with_format(FileFormat::Csv).with_row_group_rows(10);
    let error = RecordSink::create(root.path().join("csv"), csv).unwrap_err().to_line();
    assert!(error.contains("row_group_rows"), "{error}");
}

#[test]
fn folders_of_a_partitioned_table_are_columns() {
    let root = tempfile::tempdir().unwrap();
    let column = |text: &str| Arc::new(StringArray::from(vec![text, "[2, 1]"])) as ArrayRef;
    let parts = ["kind=Granny%20Smith/day=1", "kind=fig/day=__HIVE_DEFAULT_PARTITION__"];
    for (part, text) in parts.iter().zip(["[1, 2]", "[5, 5]"]) {
        write(&root.path().join("t").join(part).join("a.parquet"), vec![("v", column(text))]);
    }
    let out = root.path().join("out");
    let table = TableSource::in_folder(root.path().join("t"));
    let sink = RecordSink::create(&out, FileParams::default()).unwrap();
    TablePca::new(table, "v").with_pca(PcaParams::new(1)).run(sink).unwrap();
    let table = rows_in(&out);
    let names: Vec<_> = table.schema().fields().iter().map(|f| f.name().clone()).collect();
    assert_eq!(names, ["v", "kind", "day", "pca"]);
    let texts = |name: &str| -> Vec<Option<String>> {
        let column = table.column_by_name(name).unwrap().as_string::<i32>();
        column.iter().map(|text| text.map(str::to_owned)).collect()
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        texts("kind"),
        [some("Granny Smith"), some("Granny Smith"), some("fig"), some("fig")]
    );
    assert_eq!(texts("day"), [some("1"), some("1"), None, None]);
    // Photos are labelled by them, too.
    let image: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"P5 1 1 255\n\x07"]));
    for label in ["apple", "mango"] {
        let path = root.path().join(format!("p/label={label}/x=7/a.parquet"));
        write(&path, vec![("content", Arc::clone(&image))]);
    }
    let labels = |rule: LabelRule| -> Vec<Option<String>> {
        let table = TableSource::in_folder(root.path().join("p"));
        let images = ImageTable::new(table).with_label(rule).open().unwrap();
        images.map(|image| image.unwrap().label).collect()
    };
    assert_eq!(labels(LabelRule::Parent), [some("apple"), some("mango")]);
    fs::rename(root.path().join("p/label=apple"), root.path().join("p/class=apple")).unwrap();
    fs::remove_dir_all(root.path().join("p/label=mango")).unwrap();
    assert_eq!(labels(LabelRule::Parent), [None]);
    assert_eq!(labels(LabelRule::Hive("class".to_owned())), [some("apple")]);
}

#[test]
fn quotes_of_sparks_csv_are_read_on_request() {
    let root = tempfile::tempdir().unwrap();
    let text = "name,v\n\"say \\\"yes, no\\\"\",\"[1, 2]\"\n\"b\",\"[2, 1]\"\n";
    fs::write(root.path().join("a.csv"), text).unwrap();
    let run = |escapes: bool, out: &str| {
        let table = TableSource::in_folder(root.path().join("a.csv"));
        let table = table.with_backslash_escapes(escapes);
        let sink = RecordSink::create(root.path().join(out), FileParams::default()).unwrap();
        TablePca::new(table, "v").with_pca(PcaParams::new(1)).run(sink)
    };
    run(true, "spark").unwrap();
    let table = rows_in(&root.path().join("spark"));
    assert_eq!(table.column(0).as_string::<i32>().value(0), "say \"yes, no\"");
    run(false, "plain").unwrap_err();
}

#[test]
fn times_and_binaries_are_texts_in_csv_and_scores_are_finite() {
    let root = tempfile::tempdir().unwrap();
    let times = arrow_array::TimestampMicrosecondArray::from(vec![1_769_860_800_000_001, 0]);
    let times: ArrayRef = Arc::new(times.with_timezone("Europe/Berlin"));
    let bytes: ArrayRef =
        Arc::new(arrow_array::LargeBinaryArray::from_vec(vec![b"ab", b"\x00\xff"]));
    let v: ArrayRef = Arc::new(StringArray::from(vec!["[1, 2]", "[2, 1]"]));
    write(&root.path().join("t.parquet"), vec![("t", times), ("b", bytes), ("v", v)]);
    let table = TableSource::in_folder(root.path().join("t.parquet"));
    let csv = FileParams::default().with_format(FileFormat::Csv);
    let sink = RecordSink::create(root.path().join("out"), csv).unwrap();
    TablePca::new(table, "v").with_pca(PcaParams::new(1)).run(sink).unwrap();
    let text = fs::read_to_string(first(&root.path().join("out"), "csv")).unwrap();
    assert!(text.contains("2026-01-31T12:00:00.000001Z,\"[97, 98]\","), "{text}");
    assert!(text.contains("1970-01-01T00:00:00Z,\"[0, 255]\","), "{text}");
    fs::write(root.path().join("f.csv"), "v\n\"[3e38, 3e38]\"\n\"[1, 2]\"\n\"[-3e38, -3e38]\"\n")
        .unwrap();
    let table = TableSource::in_folder(root.path().join("f.csv"));
    let sink = RecordSink::create(root.path().join("far"), FileParams::default()).unwrap();
    let error = TablePca::new(table, "v").with_pca(PcaParams::new(1)).run(sink).unwrap_err();
    assert!(error.to_line().contains("beyond"), "{error}");
}
