use fastsocketserver::Address;

/// Reads `input` as an address: it is refused, or its text form stands for the same address.
///
/// # Panics
///
/// Where that does not hold.
pub fn address(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match text.parse::<Address>() {
        Ok(address) => assert_eq!(address.to_string().parse(), Ok(address)),
        Err(error) => assert!(error.to_string().contains(&format!("{text:?}"))),
    }
}
