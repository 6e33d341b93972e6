//! Tables as Markdown has them, with columns as wide as they must be.

/// A table; nothing where there are no rows.
pub(super) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let header: Vec<String> = header.iter().map(|&name| name.to_owned()).collect();
    let all = || [&header].into_iter().chain(&rows);
    let width = |column| all().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    [line(&header), line(&rule)].into_iter().chain(rows.iter().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "1"], ["long", ""]].map(|row| row.map(str::to_owned).into());
        assert_eq!(table(&["x", "yyy"], rows.into_iter()), "| x    | yyy |\n| ---- | --- |\n| a    | 1   |\n| long |     |\n");
        assert_eq!(table(&["x"], [].into_iter()), "");
    }
}
