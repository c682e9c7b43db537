//! Folders: the sinks that write them, and what reads the files: tables, results, the index, the report.

mod folder_sink;
mod formats;
mod parquet;
mod report;
mod results;
mod search;
mod table;
