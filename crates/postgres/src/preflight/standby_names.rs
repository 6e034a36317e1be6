//! `synchronous_standby_names`: whether a standby is on the list.

/// Whether `setting` (the value of `synchronous_standby_names`) lists `application_name`, or everybody. Names compare
/// without regard to case (manual: "Primary Server", `synchronous_standby_names`).
pub fn names_standby(setting: &str, application_name: &str) -> bool {
    standby_names(setting)
        .iter()
        .any(|name| name.text.eq_ignore_ascii_case(application_name) || (name.text == "*" && !name.quoted))
}

struct Name {
    text: String,
    quoted: bool,
}

/// The names of `a, b`, `n (a, b)`, `FIRST n (a, b)` and `ANY n (a, b)`: within parentheses if there are any.
fn standby_names(setting: &str) -> Vec<Name> {
    let list = match (setting.find('('), setting.rfind(')')) {
        (Some(open), Some(close)) if !setting.get(..open).is_some_and(|head| head.contains('"')) => {
            setting.get(open + 1..close).unwrap_or_default()
        }
        _ => setting,
    };
    let mut names = Vec::new();
    let mut current = Name {
        text: String::new(),
        quoted: false,
    };
    let mut inside = false;
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.next_if_eq(&'"').is_some() => current.text.push('"'),
            '"' => {
                inside = !inside;
                current.quoted = true;
            }
            ',' if !inside => names.push(std::mem::replace(
                &mut current,
                Name {
                    text: String::new(),
                    quoted: false,
                },
            )),
            c if c.is_whitespace() && !inside => {}
            c => current.text.push(c),
        }
    }
    names.push(current);
    names.retain(|name| !name.text.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_every_form() {
        for (setting, listed) in [
            ("", false),
            ("tidemark", true),
            ("a, TideMark", true),
            ("\"tidemark\"", true),
            ("FIRST 1 (a, tidemark)", true),
            ("ANY 2 (a, b)", false),
            ("2 (a, \"tidemark\")", true),
            ("*", true),
            ("\"*\"", false),
            ("\"tide(mark\"", false),
            ("tidemark2", false),
        ] {
            assert_eq!(names_standby(setting, "tidemark"), listed, "{setting}");
        }
        assert!(names_standby("\"tide\"\"(mark\"", "tide\"(mark"));
    }
}
