//! The fuzz targets as functions: each takes any bytes, and panics if something does not hold.

mod address;
mod line_reader;

pub use address::address;
pub use line_reader::line_reader;
