//! Results as one HTML file: nothing is loaded from anywhere, and it follows the reader's light or dark setting.

use std::fmt::Write as _;

const STYLE: &str = include_str!("page.css");

/// A page that is being written.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with a heading, and what it was measured on.
    pub fn new(title: &str, beneath: &str) -> Self {
        let body = format!("<header><h1>{}</h1><p class=\"sub\">{}</p></header>", escaped(title), escaped(beneath));
        Self { title: title.to_owned(), body }
    }

    /// A sentence that says how it came out.
    pub fn verdict(&mut self, good: bool, words: &str) {
        let class = if good { "good" } else { "warn" };
        let _ = write!(self.body, "<p class=\"verdict {class}\">{}</p>", escaped(words));
    }

    /// The figures that matter: name, value, and whether it is as it should be, if that can be said.
    pub fn tiles(&mut self, tiles: &[(&str, String, Option<bool>)]) {
        self.body.push_str("<div class=\"tiles\">");
        for (name, value, good) in tiles {
            let class = match good {
                Some(true) => "tile good",
                Some(false) => "tile bad",
                None => "tile",
            };
            let (name, value) = (escaped(name), escaped(value));
            let _ = write!(self.body, "<div class=\"{class}\"><b>{value}</b><span>{name}</span></div>");
        }
        self.body.push_str("</div>");
    }

    /// A heading.
    pub fn heading(&mut self, words: &str) {
        let _ = write!(self.body, "<h2>{}</h2>", escaped(words));
    }

    /// A plot with its name and a sentence about it.
    pub fn figure(&mut self, name: &str, about: &str, svg: &str) {
        let (name, about) = (escaped(name), escaped(about));
        let _ = write!(self.body, "<figure><figcaption><b>{name}</b> {about}</figcaption>{svg}</figure>");
    }

    /// A table; the first row is the heading.
    pub fn table(&mut self, rows: &[Vec<String>]) {
        self.body.push_str("<div class=\"scroll\"><table>");
        for (number, row) in rows.iter().enumerate() {
            let tag = if number == 0 { "th" } else { "td" };
            self.body.push_str("<tr>");
            row.iter().for_each(|cell| {
                let _ = write!(self.body, "<{tag}>{}</{tag}>", escaped(cell));
            });
            self.body.push_str("</tr>");
        }
        self.body.push_str("</table></div>");
    }

    /// Text as in a terminal.
    pub fn preformatted(&mut self, words: &str) {
        let _ = write!(self.body, "<div class=\"scroll\"><pre>{}</pre></div>", escaped(words));
    }

    /// A paragraph.
    pub fn text(&mut self, words: &str) {
        let _ = write!(self.body, "<p>{}</p>", escaped(words));
    }

    /// The whole file.
    pub fn finish(self) -> String {
        let title = escaped(&self.title);
        format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><main>{}</main></body></html>\n",
            self.body
        )
    }
}

/// Text for HTML.
pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_needs_nothing_else() {
        let mut page = Page::new("a <b>", "on a machine");
        page.tiles(&[("failed", "0".into(), Some(true))]);
        page.table(&[vec!["x".into()], vec!["1 & 2".into()]]);
        let text = page.finish();
        assert!(text.contains("a &lt;b&gt;") && text.contains("<td>1 &amp; 2</td>"), "{text}");
        assert!(!text.contains("http") && !text.contains("src=") && !text.contains("url("), "{text}");
    }
}
