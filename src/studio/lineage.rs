//! What an artifact was made from, drawn. Pure.
//!
//! Every text may be a user's: it is escaped.

use crate::format::markup::escape;

const WIDTH: usize = 220;
const HEIGHT: usize = 44;
/// Between columns, where what was done is written; and between rows.
const GAP: [usize; 2] = [150, 28];
const MARGIN: usize = 8;
/// Characters of a name that fit in a box, and of what was done that fit between two.
const SHOWN: [usize; 2] = [28, 20];

/// An artifact of the drawing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    /// Where the page shows it, if whoever asks may see it.
    pub(super) link: Option<String>,
}

/// What became of what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) how: String,
}

/// The beginning of a text that is too long, escaped.
fn cut(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => escape(&(text.chars().take(most - 1).collect::<String>() + "…")),
        false => escape(text),
    }
}

/// How far each node is from the first, which everything led to: the longest way.
fn depths(count: usize, edges: &[Edge]) -> Vec<usize> {
    let mut depths = vec![0; count];
    // A way visits each node once, as ids commit to what they name: so many rounds are enough, and end.
    for _ in 0..count {
        for edge in edges {
            let next = depths.get(edge.to).map_or(0, |depth| depth + 1);
            if let Some(depth) = depths.get_mut(edge.from).filter(|depth| **depth < next.min(count))
            {
                *depth = next;
            }
        }
    }
    depths
}

/// The drawing, from left to right; the first node is the artifact that it is about.
pub(super) fn svg(nodes: &[Node], edges: &[Edge]) -> String {
    let depths = depths(nodes.len(), edges);
    let deepest = depths.iter().copied().max().unwrap_or(0);
    let mut rows = vec![0; deepest + 1];
    let places: Vec<[usize; 2]> = depths
        .iter()
        .map(|depth| {
            let row = rows.get_mut(*depth).map_or(0, |row| std::mem::replace(row, *row + 1));
            [MARGIN + (deepest - depth) * (WIDTH + GAP[0]), MARGIN + row * (HEIGHT + GAP[1])]
        })
        .collect();
    let tallest = rows.iter().copied().max().unwrap_or(1).max(1);
    let width = 2 * MARGIN + deepest * (WIDTH + GAP[0]) + WIDTH;
    let height = 2 * MARGIN + tallest * (HEIGHT + GAP[1]) - GAP[1];
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"lineage\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" role=\"group\" aria-label=\"Lineage\">"
    );
    for edge in edges {
        let (Some([x, y]), Some([to_x, to_y])) = (places.get(edge.from), places.get(edge.to))
        else {
            continue;
        };
        let (x, y, to_y) = (x + WIDTH, y + HEIGHT / 2, to_y + HEIGHT / 2);
        let middle = (x + to_x) / 2;
        out.push_str(&format!(
            "<path d=\"M{x} {y} C{middle} {y} {middle} {to_y} {} {to_y}\"/>\
             <path class=\"head\" d=\"M{to_x} {to_y} l-8 -4 v8 z\"/>\
             <text x=\"{middle}\" y=\"{}\">{}</text>",
            to_x - 8,
            (y + to_y) / 2 - 6,
            cut(&edge.how, SHOWN[1]),
        ));
    }
    for (at, (node, [x, y])) in nodes.iter().zip(&places).enumerate() {
        let class = if at == 0 { "node own" } else { "node" };
        let drawn = format!(
            "<g class=\"{class}\"><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" rx=\"6\"/>\
             <text x=\"{}\" y=\"{}\">{}</text></g>",
            escape(&node.name),
            x + WIDTH / 2,
            y + HEIGHT / 2 + 5,
            cut(&node.name, SHOWN[0]),
        );
        match &node.link {
            Some(link) => out.push_str(&format!("<a href=\"{}\">{drawn}</a>", escape(link))),
            None => out.push_str(&drawn),
        }
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> Node {
        Node { name: name.to_owned(), link: Some(format!("#/artifact/{name}")) }
    }

    fn edge(from: usize, to: usize, how: &str) -> Edge {
        Edge { from, to, how: how.to_owned() }
    }

    #[test]
    fn what_came_first_stands_left() {
        let nodes = [node("org/delta"), node("org/tuned"), node("org/base")];
        let edges = [edge(1, 0, "lossless delta"), edge(2, 0, "base"), edge(2, 1, "tuned")];
        assert_eq!(depths(3, &edges), [0, 1, 2]);
        let drawn = svg(&nodes, &edges);
        let at = |name: &str| {
            let node = drawn.find(&format!("<title>{name}<")).unwrap();
            let rect = node + drawn[node..].find("x=\"").unwrap() + 3;
            let end = rect + drawn[rect..].find('"').unwrap();
            drawn[rect..end].parse::<usize>().unwrap()
        };
        assert!(at("org/base") < at("org/tuned") && at("org/tuned") < at("org/delta"), "{drawn}");
        assert_eq!(drawn.matches("<a href=\"#/artifact/").count(), 3);
        assert!(svg(&[node("alone")], &[]).contains("alone"));
        // No chain of manifests is a circle; what says so all the same ends, too.
        assert!(!svg(&nodes, &[edge(0, 1, "x"), edge(1, 0, "y"), edge(9, 0, "z")]).is_empty());
        assert!(svg(&[], &[]).ends_with("</svg>"));
    }

    #[test]
    fn no_text_is_markup() {
        let evil = "\"><script>alert('x')</script>&\u{1}";
        let drawn = svg(&[node(evil), node(&"ä".repeat(300))], &[edge(1, 0, evil)]);
        assert!(!drawn.contains("<script") && !drawn.contains('\u{1}'), "{drawn}");
        assert!(!drawn.contains("\"\">") && drawn.contains("&lt;script&gt;"), "{drawn}");
        assert_eq!(drawn.matches('<').count(), drawn.matches('>').count());
    }
}
