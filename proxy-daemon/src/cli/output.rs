//! From rows to what is printed: an aligned table for people, JSON or YAML with the same stable field names for programs.
//!
//! Nothing of a table is printed before all its rows are known; JSON is written row by row. A reader that closes the pipe early
//! (`head`) is no failure.

use std::io::{self, BufWriter, Write};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tabled::{
    builder::Builder,
    settings::{Padding, Style},
};

use crate::args::Format;

/// One line of a table and one object of a list.
pub(super) trait Row: Serialize {
    const COLUMNS: &'static [&'static str];

    /// One text a column.
    fn cells(&self) -> Vec<String>;
}

/// What a command has to show.
pub(super) trait Show: Serialize {
    fn table(&self) -> String;
}

impl<R: Row> Show for Vec<R> {
    fn table(&self) -> String {
        table(self)
    }
}

pub(super) fn table<R: Row>(rows: &[R]) -> String {
    let header = R::COLUMNS.iter().map(|&column| column.to_owned()).collect();
    aligned([header].into_iter().chain(rows.iter().map(Row::cells)))
}

/// Pairs of a name and a value, below each other.
pub(super) fn pairs<const N: usize>(pairs: [(&str, String); N]) -> String {
    aligned(pairs.into_iter().map(|(name, value)| vec![format!("{name}:"), value]))
}

/// Columns three spaces apart, as kubectl has them; an empty cell is a dash.
fn aligned(lines: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut builder = Builder::default();
    for line in lines {
        builder.push_record(line.into_iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { cell }));
    }
    let mut table = builder.build();
    table.with(Style::empty()).with(Padding::new(0, 3, 0, 0));
    let lines: Vec<String> = table.to_string().lines().map(|line| line.trim_end().to_owned() + "\n").collect();
    lines.concat()
}

/// Prints to standard output.
pub(super) fn print(shown: &impl Show, format: Format) -> Result<()> {
    let stdout = Patient { out: io::stdout().lock(), closed: false };
    write(shown, format, BufWriter::with_capacity(1 << 16, stdout))
}

fn write(shown: &impl Show, format: Format, mut out: impl Write) -> Result<()> {
    match format {
        Format::Table => out.write_all(shown.table().as_bytes()).context("writing a table")?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut out, shown).context("writing JSON")?;
            out.write_all(b"\n").context("writing JSON")?;
        }
        Format::Yaml => serde_yaml_ng::to_writer(&mut out, shown).context("writing YAML")?,
    }
    out.flush().context("writing to standard output")
}

/// Swallows what nobody reads any more.
struct Patient<W> {
    out: W,
    closed: bool,
}

impl<W: Write> Patient<W> {
    fn attempt<T>(&mut self, if_closed: T, write: impl FnOnce(&mut W) -> io::Result<T>) -> io::Result<T> {
        if self.closed {
            return Ok(if_closed);
        }
        match write(&mut self.out) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(if_closed)
            }
            result => result,
        }
    }
}

impl<W: Write> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(bytes.len(), |out| out.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt((), Write::flush)
    }
}

#[cfg(test)]
pub(super) fn render(shown: &impl Show, format: Format) -> String {
    let mut out = Vec::new();
    write(shown, format, &mut out).expect("memory takes everything");
    String::from_utf8(out).expect("all formats are UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pod {
        name: &'static str,
        restarts: u32,
        node: Option<&'static str>,
    }

    impl Row for Pod {
        const COLUMNS: &'static [&'static str] = &["NAME", "RESTARTS", "NODE"];

        fn cells(&self) -> Vec<String> {
            vec![self.name.to_owned(), self.restarts.to_string(), self.node.unwrap_or_default().to_owned()]
        }
    }

    fn pods() -> Vec<Pod> {
        vec![Pod { name: "web", restarts: 0, node: Some("n1") }, Pod { name: "a-long-name", restarts: 12, node: None }]
    }

    #[test]
    fn tables_are_aligned_without_trailing_spaces() {
        let text = render(&pods(), Format::Table);
        assert_eq!(text, "NAME          RESTARTS   NODE\nweb           0          n1\na-long-name   12         -\n");
    }

    #[test]
    fn a_table_without_rows_still_has_its_header() {
        assert_eq!(render(&Vec::<Pod>::new(), Format::Table), "NAME   RESTARTS   NODE\n");
        assert_eq!(render(&Vec::<Pod>::new(), Format::Json), "[]\n");
    }

    #[test]
    fn programs_get_fields_by_name() {
        let json: serde_json::Value = serde_json::from_str(&render(&pods(), Format::Json)).unwrap();
        assert_eq!(json[1]["restarts"], 12);
        assert_eq!(json[1]["node"], serde_json::Value::Null);
        let yaml: serde_json::Value = serde_yaml_ng::from_str(&render(&pods(), Format::Yaml)).unwrap();
        assert_eq!(yaml, json);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        for format in [Format::Table, Format::Json, Format::Yaml] {
            write(&pods(), format, Patient { out: Closed, closed: false }).unwrap();
        }
    }

    #[test]
    fn pairs_stand_below_each_other() {
        assert_eq!(pairs([("node", "n1".to_owned()), ("synced", "true".to_owned())]), "node:     n1\nsynced:   true\n");
    }
}
