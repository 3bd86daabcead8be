//! From arguments to the parameter block of an entry.

use anyhow::bail;

use super::argument::Passed;

/// The parameter block. `params` are the offset and the bytes of each parameter; the arguments fill one each or, where
/// there is one parameter alone, the fields of its struct.
pub fn block(params: &[(usize, usize)], passed: &[Passed]) -> anyhow::Result<Vec<u8>> {
    if let [(_, bytes)] = params
        && !passed.is_empty()
    {
        return fields(*bytes, passed);
    }
    if passed.len() != params.len() {
        bail!("{} arguments for the {} parameters of the entry", passed.len(), params.len());
    }
    let end = params.iter().map(|(offset, bytes)| offset + bytes).max().unwrap_or(0);
    let mut block = vec![0; end];
    for (index, (&(offset, bytes), passed)) in params.iter().zip(passed).enumerate() {
        if passed.bytes.len() != bytes {
            bail!("argument {} has {} bytes, and the parameter {bytes}", index + 1, passed.bytes.len());
        }
        block[offset..offset + bytes].copy_from_slice(&passed.bytes);
    }
    Ok(block)
}

/// Fields one after another as C lays them out.
fn fields(bytes: usize, passed: &[Passed]) -> anyhow::Result<Vec<u8>> {
    let mut block = Vec::new();
    for field in passed {
        block.resize(block.len().next_multiple_of(field.align), 0);
        block.extend_from_slice(&field.bytes);
    }
    let align = passed.iter().map(|it| it.align).max().unwrap_or(1);
    block.resize(block.len().next_multiple_of(align), 0);
    if block.len() != bytes {
        let (count, s) = (passed.len(), if passed.len() == 1 { "" } else { "s" });
        bail!(
            "{count} argument{s} of {} bytes together, as C lays out a struct, for a parameter of {bytes}",
            block.len()
        );
    }
    Ok(block)
}
