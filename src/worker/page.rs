//! Pages for people, small enough to be written here: no script, no style, nothing from elsewhere.

/// What the pages may load (W3C Content Security Policy Level 3): nothing. Nor may others frame them.
pub const POLICY: &[u8] = b"default-src 'none'; base-uri 'none'; frame-ancestors 'none'";
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

/// A page with a title, paragraphs, and what one can do next. All of it is escaped but `next`.
pub fn render(title: &str, paragraphs: &[&str], next: &str) -> String {
    let title = escape(title);
    let text: String = paragraphs.iter().map(|paragraph| format!("<p>{}</p>\n", escape(paragraph))).collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n<h1>{title}</h1>\n{text}{next}\n</html>\n"
    )
}

/// A link; `target` is a path of ours.
pub fn link(target: &str, text: &str) -> String {
    format!("<p><a href=\"{}\">{}</a></p>", escape(target), escape(text))
}

/// A button that posts to a path of ours.
pub fn button(target: &str, text: &str) -> String {
    format!("<form method=\"post\" action=\"{}\"><button>{}</button></form>", escape(target), escape(text))
}

/// Text that is neither markup nor ends an attribute.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_said_is_text() {
        let page =
            render("<b>", &["<script>alert('1')</script>", "a\u{0}\u{85}\nb"], &link("/login?a=\"><i>", "x & y"));
        for markup in ["<b>", "<script", "<i>", "'1'", "\u{0}", "\u{85}"] {
            assert!(!page.contains(markup), "{markup}: {page}");
        }
        assert!(page.contains("&lt;script&gt;alert(&#39;1&#39;)") && page.contains("x &amp; y"));
    }
}
