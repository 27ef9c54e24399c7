//! Makes the far end of a veth pair receive what XDP transmits.
//!
//! A veth hands frames of `XDP_TX` to its peer's ring, but wakes the peer only if that has an XDP
//! program of its own (`veth_xdp_flush` in the kernel's drivers/net/veth.c, seen in 6.18); GRO on
//! the peer is enough for `XDP_REDIRECT` alone. So the bridge's port gets a program that passes
//! everything.

use std::fs;

use anyhow::{Context, Result};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
};

use crate::netns::{Namespace, run};
use crate::scratch;

/// `r0 = XDP_PASS; exit` (RFC 9669), eight little-endian bytes each.
const PASS: [u8; 16] = [0xb7, 0, 0, 0, 2, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// Attaches the program to a device, for as long as that lives.
///
/// # Errors
/// iproute2 lacks libbpf, or the kernel refuses.
pub(super) fn attach(namespace: &Namespace, device: &str) -> Result<()> {
    let directory = scratch::directory()?;
    let path = directory.path().join("pass.o");
    fs::write(&path, elf()?).with_context(|| format!("write {}", path.display()))?;
    let mut command = namespace.command("ip");
    command.args(["link", "set", "dev", device, "xdpdrv", "obj"]).arg(&path);
    run(command.args(["sec", "xdp"]), "").context("attach an XDP program that passes frames")?;
    Ok(())
}

/// The program as an object file that libbpf loads.
fn elf() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let program = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
    object.append_section_data(program, &PASS, 8);
    object.add_symbol(Symbol {
        name: b"pass".to_vec(),
        value: 0,
        size: PASS.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(program),
        flags: SymbolFlags::None,
    });
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Dual MIT/GPL\0", 1);
    object.write().context("write the object file")
}
