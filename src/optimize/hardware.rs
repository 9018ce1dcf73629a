//! What models are run on: memory, rates, links. Pure.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

const TABLE: &str = include_str!("data/hardware.toml");
/// What this machine is called.
pub const HOST: &str = "host";
/// The most devices of one kind.
const MOST: u32 = 64;

/// One device, as its maker describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// What `--hardware` calls it.
    pub name: String,
    /// What its maker calls it.
    pub title: String,
    /// GB.
    pub memory: f64,
    /// GB/s.
    pub bandwidth: f64,
    /// 10^12 multiplications and additions of 16 bits in a second.
    pub fp16: f64,
    /// The same of 8 bits, floating; none where it has none.
    pub fp8: Option<f64>,
    /// The same of 8 bits, integers.
    pub int8: Option<f64>,
    /// GB/s from one to another.
    #[serde(default)]
    pub link: f64,
    /// NVIDIA's compute capability.
    pub compute: Option<f64>,
    /// Whether it computes in bf16.
    pub bf16: bool,
    /// Whether it is a processor, not an accelerator.
    #[serde(default)]
    pub processor: bool,
    /// How many times slower than an H100's the processor beside it launches work.
    pub host: f64,
    /// Who says so.
    pub source: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    device: Vec<Device>,
}

/// A table that is none has no device; a test holds that it is one.
static DEVICES: LazyLock<Vec<Device>> =
    LazyLock::new(|| toml::from_str::<Table>(TABLE).unwrap_or_default().device);

/// Devices that a model is split over.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hardware {
    /// Each of them.
    pub device: Device,
    /// How many.
    pub count: u32,
}

/// A device that is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}: no such hardware; there are {}, each with xN for N of them", names.join(", "))]
pub struct UnknownHardware {
    /// What was asked for.
    pub text: String,
    /// What there is.
    pub names: Vec<String>,
}

/// Every device but this machine.
pub fn devices() -> &'static [Device] {
    &DEVICES
}

/// This machine. What it reaches is a guess, by its number of cores and its memory.
pub fn host(cores: u32, memory: u64) -> Hardware {
    let cores = f64::from(cores.max(1));
    let device = Device {
        name: HOST.to_owned(),
        title: format!("this machine, {cores} cores"),
        memory: memory as f64 / 1e9,
        bandwidth: (8.0 * cores).min(100.0),
        fp16: 0.03 * cores,
        fp8: None,
        int8: None,
        link: 0.0,
        compute: None,
        bf16: true,
        processor: true,
        host: 1.0,
        source: "a guess by its cores".to_owned(),
    };
    Hardware { device, count: 1 }
}

impl Hardware {
    /// The hardware of that name, such as `a100` or `h100x8`; `host` is this machine.
    ///
    /// # Errors
    /// If there is none.
    pub fn parse(text: &str, host: &Self) -> Result<Self, UnknownHardware> {
        let unknown = || {
            let own = DEVICES.iter().map(|device| device.name.clone());
            let names = std::iter::once(HOST.to_owned()).chain(own).collect();
            UnknownHardware { text: text.to_owned(), names }
        };
        let device = |name: &str| match name {
            HOST => Some(host.device.clone()),
            _ => DEVICES.iter().find(|device| device.name == name).cloned(),
        };
        if let Some(device) = device(text) {
            return Ok(Self { device, count: 1 });
        }
        let (name, count) = text.rsplit_once('x').ok_or_else(unknown)?;
        let count = count.parse().ok().filter(|count| (1..=MOST).contains(count));
        let device = device(name).filter(|device| !device.processor);
        Ok(Self { device: device.ok_or_else(unknown)?, count: count.ok_or_else(unknown)? })
    }

    /// What `--hardware` calls it.
    pub fn name(&self) -> String {
        match self.count {
            1 => self.device.name.clone(),
            count => format!("{}x{count}", self.device.name),
        }
    }

    /// Whether it is this machine.
    pub fn is_host(&self) -> bool {
        self.device.name == HOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_the_command_line_is_a_device() {
        let here = host(2, 8 << 30);
        let table: Table = toml::from_str(TABLE).unwrap();
        assert_eq!(table.device, devices());
        for name in
            ["host", "cpu", "t4", "a10g", "l4", "l40s", "a100-40", "a100", "h100", "h200", "mi300x"]
        {
            let found = Hardware::parse(name, &here).unwrap();
            assert_eq!((found.name().as_str(), found.count), (name, 1));
        }
        for device in devices() {
            assert!(device.memory > 1.0 && device.bandwidth > 1.0 && device.fp16 > 0.1);
            assert!(device.fp8.is_none_or(|rate| rate > device.fp16), "{}", device.name);
            let new = device.compute.is_none_or(|own| own >= 8.9) && !device.processor;
            assert_eq!(device.fp8.is_some(), new, "{}", device.name);
        }
    }

    #[test]
    fn several_are_asked_for_by_their_number() {
        let here = host(2, 8 << 30);
        let eight = Hardware::parse("h100x8", &here).unwrap();
        assert_eq!((eight.count, eight.name().as_str()), (8, "h100x8"));
        assert!(Hardware::parse("host", &here).unwrap().is_host());
        for wrong in ["", "x", "h100x", "h100x0", "h100x65", "hostx2", "cpux2", "b200", "x8"] {
            let said = Hardware::parse(wrong, &here).unwrap_err().to_string();
            assert!(said.contains("there are host, t4, a10g"), "{said}");
        }
    }
}
