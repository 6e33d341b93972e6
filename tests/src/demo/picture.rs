//! The scene as a small picture.

use std::fmt::Write as _;

use super::scene::Scene;
use crate::host::Host as _;

/// A column of the picture: what stands below one port of the switch.
const WIDTH: usize = 28;

/// Draws who is connected to whom, with everyone's addresses.
pub(super) fn draw(scene: &Scene) -> String {
    let mut columns = vec![router(scene)];
    columns.extend(scene.cluster().server().map(|(version, addr)| vec![format!("API server {version}"), addr.to_string()]));
    columns.extend(scene.bed().nodes().iter().map(|node| {
        let mut lines = vec![format!("{} (shunt)", node.name())];
        lines.extend(node.addrs().both().map(|addr| addr.to_string()));
        for pod in scene.pods_on(node) {
            let [v4, v6] = pod.addrs().both();
            lines.extend([" |".to_owned(), format!(" +-- {:5} {v4}", pod.name()), format!(" |         {v6}")]);
        }
        lines
    }));
    let switch = format!("{:=<WIDTH$}", "==+").repeat(columns.len());
    let mut picture = format!("   {switch}  172.30.0.0/24, fd30::/64\n");
    let height = columns.iter().map(Vec::len).max().unwrap_or(0);
    for column in &mut columns {
        column.insert(0, "|".to_owned());
    }
    for row in 0..=height {
        let mut line = "     ".to_owned();
        for column in &columns {
            // Writing to a string cannot fail.
            write!(line, "{:WIDTH$}", column.get(row).map_or("", String::as_str)).ok();
        }
        picture += line.trim_end();
        picture.push('\n');
    }
    picture
}

fn router(scene: &Scene) -> Vec<String> {
    let mut lines = vec!["router".to_owned(), "|".to_owned(), "client outside".to_owned()];
    lines.extend(scene.bed().client().addrs().both().map(|addr| addr.to_string()));
    lines
}
