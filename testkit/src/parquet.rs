//! Parquet files, read whole.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_select::concat::concat_batches;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;

/// All rows of these files, which have the same columns.
pub fn rows_of<R: ChunkReader + 'static>(files: impl IntoIterator<Item = R>) -> RecordBatch {
    let mut schema = None;
    let mut batches = Vec::new();
    for file in files {
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        schema.get_or_insert_with(|| Arc::clone(reader.schema()));
        batches.extend(reader.build().unwrap().map(Result::unwrap));
    }
    concat_batches(&schema.expect("a file"), &batches).unwrap()
}

/// All rows of the Parquet files of a folder, by name.
pub fn rows_in(folder: &Path) -> RecordBatch {
    let names = super::names(folder).into_iter().filter(|name| name.ends_with(".parquet"));
    rows_of(names.map(|name| File::open(folder.join(name)).unwrap()))
}
