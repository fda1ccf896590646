//! Which names and characters XML 1.0 (fifth edition) allows.

/// Whether a name can begin with this (production 4, `NameStartChar`).
pub(crate) fn can_start(character: char) -> bool {
    matches!(character,
        ':' | '_' | 'A'..='Z' | 'a'..='z'
        | '\u{C0}'..='\u{D6}' | '\u{D8}'..='\u{F6}' | '\u{F8}'..='\u{2FF}' | '\u{370}'..='\u{37D}'
        | '\u{37F}'..='\u{1FFF}' | '\u{200C}'..='\u{200D}' | '\u{2070}'..='\u{218F}' | '\u{2C00}'..='\u{2FEF}'
        | '\u{3001}'..='\u{D7FF}' | '\u{F900}'..='\u{FDCF}' | '\u{FDF0}'..='\u{FFFD}' | '\u{10000}'..='\u{EFFFF}')
}

/// Whether this is a name (production 5).
pub(crate) fn is_name(name: &str) -> bool {
    let can_follow = |character: char| {
        can_start(character)
            || matches!(character, '-' | '.' | '0'..='9' | '\u{B7}' | '\u{300}'..='\u{36F}' | '\u{203F}'..='\u{2040}')
    };
    name.starts_with(can_start) && name.chars().all(can_follow)
}

/// The first character that no document may hold, even escaped (production 2, `Char`).
pub(crate) fn forbidden(text: &str) -> Option<char> {
    text.chars().find(|character| {
        matches!(character, '\0'..='\u{8}' | '\u{B}' | '\u{C}' | '\u{E}'..='\u{1F}' | '\u{FFFE}' | '\u{FFFF}')
    })
}
