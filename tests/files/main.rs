//! What is written to a folder, and what reads it: sinks, formats, tables, results, the index, the report.

mod folder_sink;
mod formats;
mod parquet;
mod report;
mod results;
mod search;
mod table;
