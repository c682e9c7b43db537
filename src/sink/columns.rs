//! Columns by name and type, as text: in a manifest, and in the notes of CSV files.

use arrow_schema::{DataType, Field, IntervalUnit, Schema, TimeUnit};

use super::format::FileFormat;

/// The key of the note of CSV files that tells their columns.
pub(super) const NOTE: &str = "columns";

/// The columns by name and type, such as `label: string, nullable`; before them the format, if its files have no footer. Two
/// results have the same list if and only if their format and their columns are the same. The names of types are our
/// own, as arrow may rename its types.
pub(super) fn column_types(schema: &Schema, format: FileFormat) -> Vec<String> {
    let format = Some(format).filter(|format| !format.has_footer());
    let format = format.map(|format| format!("in {format}"));
    let fields = schema.fields().iter();
    let columns = fields.map(|f| format!("{}: {}", f.name(), named(f)));
    format.into_iter().chain(columns).collect()
}

fn name_of(data_type: &DataType) -> String {
    match data_type {
        DataType::Utf8 => "string".to_owned(),
        DataType::Int32 => "int32".to_owned(),
        DataType::Float32 => "float32".to_owned(),
        DataType::Float64 => "float64".to_owned(),
        DataType::FixedSizeBinary(len) => format!("binary[{len}]"),
        DataType::FixedSizeList(of, len) => {
            format!("list[{len}] of {}", named(of))
        }
        DataType::List(of) => format!("list of {}", named(of)),
        DataType::Struct(fields) => {
            let fields = fields.iter();
            let fields = fields.map(|f| format!("{}: {}", f.name(), named(f)));
            format!("struct of ({})", fields.collect::<Vec<_>>().join("; "))
        }
        DataType::Int8 => "int8".to_owned(),
        DataType::Binary => "binary".to_owned(),
        // Only in columns of the caller's, or of a table.
        DataType::Null => "null".to_owned(),
        DataType::Boolean => "bool".to_owned(),
        DataType::Int16 => "int16".to_owned(),
        DataType::Int64 => "int64".to_owned(),
        DataType::UInt8 => "uint8".to_owned(),
        DataType::UInt16 => "uint16".to_owned(),
        DataType::UInt32 => "uint32".to_owned(),
        DataType::UInt64 => "uint64".to_owned(),
        DataType::Float16 => "float16".to_owned(),
        DataType::LargeUtf8 => "large string".to_owned(),
        DataType::Utf8View => "string view".to_owned(),
        DataType::LargeBinary => "large binary".to_owned(),
        DataType::BinaryView => "binary view".to_owned(),
        DataType::Date32 => "date".to_owned(),
        DataType::Date64 => "date in ms".to_owned(),
        DataType::Time32(unit) | DataType::Time64(unit) => format!("time in {}", unit_of(*unit)),
        DataType::Duration(unit) => format!("duration in {}", unit_of(*unit)),
        DataType::Timestamp(unit, zone) => {
            let zone = zone.as_ref().map(|zone| format!(", zone {zone}"));
            format!("timestamp in {}{}", unit_of(*unit), zone.unwrap_or_default())
        }
        DataType::Interval(unit) => format!("interval in {}", interval_of(*unit)),
        DataType::Decimal32(precision, scale) => format!("decimal32({precision}, {scale})"),
        DataType::Decimal64(precision, scale) => format!("decimal64({precision}, {scale})"),
        DataType::Decimal128(precision, scale) => format!("decimal128({precision}, {scale})"),
        DataType::Decimal256(precision, scale) => format!("decimal256({precision}, {scale})"),
        DataType::LargeList(of) => format!("large list of {}", named(of)),
        DataType::ListView(of) => format!("list view of {}", named(of)),
        DataType::LargeListView(of) => format!("large list view of {}", named(of)),
        DataType::Map(of, sorted) => {
            format!("{}map of {}", if *sorted { "sorted " } else { "" }, named(of))
        }
        DataType::Dictionary(keys, values) => {
            format!("dictionary of {} by {}", name_of(values), name_of(keys))
        }
        DataType::RunEndEncoded(ends, values) => {
            format!("runs of {} by {}", named(values), named(ends))
        }
        DataType::Union(fields, _) => {
            let fields = fields.iter().map(|(id, f)| format!("{id} {}: {}", f.name(), named(f)));
            format!("union of ({})", fields.collect::<Vec<_>>().join("; "))
        }
    }
}

/// A type within another, and whether it may be null.
fn named(field: &Field) -> String {
    name_of(field.data_type()) + null(field)
}

fn unit_of(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Second => "s",
        TimeUnit::Millisecond => "ms",
        TimeUnit::Microsecond => "us",
        TimeUnit::Nanosecond => "ns",
    }
}

fn interval_of(unit: IntervalUnit) -> &'static str {
    match unit {
        IntervalUnit::YearMonth => "months",
        IntervalUnit::DayTime => "days and ms",
        IntervalUnit::MonthDayNano => "months, days and ns",
    }
}

fn null(field: &Field) -> &'static str {
    if field.is_nullable() { ", nullable" } else { "" }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::features::VectorFormat;
    use crate::rows::{Layout, RowShape, ScoreWidth, TableParams};

    fn types(format: VectorFormat, k: Option<usize>, table: TableParams) -> Vec<String> {
        column_types(&table.schema(format, k), FileFormat::Parquet)
    }

    #[test]
    fn the_types_of_tables_have_names_of_their_own() {
        let item = || Arc::new(Field::new("item", DataType::Int64, true));
        let zone = Some("UTC".into());
        let dictionary = DataType::Dictionary(DataType::Int16.into(), DataType::LargeUtf8.into());
        for (data_type, name) in [
            (DataType::Int64, "int64"),
            (DataType::Boolean, "bool"),
            (DataType::Date32, "date"),
            (DataType::Timestamp(TimeUnit::Microsecond, zone), "timestamp in us, zone UTC"),
            (DataType::Timestamp(TimeUnit::Nanosecond, None), "timestamp in ns"),
            (DataType::Decimal128(10, 2), "decimal128(10, 2)"),
            (DataType::LargeList(item()), "large list of int64, nullable"),
            (DataType::Map(item(), false), "map of int64, nullable"),
            (dictionary, "dictionary of large string by int16"),
            (DataType::Interval(IntervalUnit::DayTime), "interval in days and ms"),
        ] {
            assert_eq!(name_of(&data_type), name);
        }
    }

    #[test]
    fn a_manifest_tells_columns_by_names_that_stay() {
        let orb = VectorFormat::u8(32).with_keypoints();
        let table = TableParams::default();
        let default = types(orb, Some(20), table);
        assert_eq!(
            default,
            [
                "path: string",
                "label: string, nullable",
                "image_height: int32",
                "image_width: int32",
                "image_channels: int32",
                "keypoint_index: int32",
                "x: float32",
                "y: float32",
                "size: float32",
                "angle: float32",
                "response: float32",
                "octave: int32",
                "descriptor: binary[32]",
                "pca: list[20] of float32",
            ]
        );
        for (format, k, table) in [
            (orb, Some(21), table),
            (orb, Some(20), table.with_score_width(ScoreWidth::F64)),
            (orb, None, table),
            (VectorFormat::u8(32), Some(20), table),
            (VectorFormat::u8(31).with_keypoints(), Some(20), table),
            (orb, Some(20), table.with_rows(RowShape::Image)),
            (orb, Some(20), table.with_layout(Layout::Spark)),
        ] {
            assert_ne!(types(format, k, table), default);
        }
        assert_eq!(
            types(VectorFormat::f32(64), None, table)[5..],
            ["vector_index: int32", "vector: list[64] of float32"]
        );
        let images = types(orb, Some(20), table.with_rows(RowShape::Image));
        assert_eq!(images[5..7], ["n_keypoints: int32", "x: list of float32"]);
        assert_eq!(
            images[12..],
            ["descriptor: list of binary", "pca: list of list[20] of float32"]
        );
        let padded = types(orb, Some(20), table.with_rows(RowShape::Padded(3)));
        assert_eq!(padded[6..], ["descriptor: list[96] of float32", "pca: list[60] of float32"]);
        let csv = column_types(&table.schema(orb, None), FileFormat::Csv);
        assert_eq!((&*csv[0], csv.len()), ("in csv", 14));
    }
}
