//! The result as a page: one file with its data, its style and its script, that asks nobody for anything.

use serde_json::Value;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

pub fn page(document: &Value) -> String {
    let title = escape(document["scenario"]["name"].as_str().unwrap_or_default());
    // Nothing in it may end the element that it stands in.
    let data = document.to_string().replace('<', "\\u003c");
    PAGE.replace("{{title}}", &title)
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
        .replace("{{data}}", &data)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_page_needs_nothing_else_and_no_data_can_break_out_of_it() {
        let page = page(&json!({"scenario": {"name": "<b>"}, "targets": [{"url": "</script><script>alert(1)"}]}));
        assert!(!page.contains("</script><script>alert") && !page.contains("<title><b>"));
        assert!(!page.contains("{{"), "a placeholder is left");
        for outside in ["src=\"http", "href=\"http", "@import", "url(http"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
