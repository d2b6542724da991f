//! A realistic node for trying things out: the second-level prefix 88.118, 300 enterprises, 54,000 devices.
//!
//! The same records every time, but for the public key in the site records. Filling can be interrupted: a mark is set
//! before and the second-level prefix is homed last, so that the next start knows that it has to go on.

use bytes::Bytes;
use jiexi_proto::{
    handle::CaseRule,
    value::{Value, site::SiteRecord},
};

use crate::{
    identity, records,
    store::{Action, Batch, Change, Draft, Expect, Space, Store, StoreError},
};

/// The second-level prefix.
pub const PREFIX: &str = "88.118";
/// Enterprises below it: 88.118.1 to 88.118.300.
pub const ENTERPRISES: u32 = 300;
/// Devices of each enterprise.
pub const DEVICES: u32 = 180;
/// All records: the second-level prefix, the enterprises and their devices.
pub const RECORDS: u64 = 1 + (ENTERPRISES * (DEVICES + 1)) as u64;
/// 2026-01-01T00:00:00Z: the records begin here and get younger one minute each.
const EPOCH: u32 = 1_767_225_600;
/// The key of the mark that says whose data these are.
const MARK: &[u8] = b"demo";

/// An industry: where it is, what it makes and how it numbers its devices.
struct Industry {
    place: &'static str,
    trade: &'static str,
    products: [(&'static str, &'static str); 3],
    style: fn(u32, u32) -> String,
}

/// Industries, taken in turn by the enterprises.
const INDUSTRIES: [Industry; 6] = [
    Industry {
        place: "沈阳",
        trade: "机床",
        products: [
            ("数控车床", "CK6150"),
            ("立式加工中心", "VMC850"),
            ("龙门铣床", "XK2420"),
        ],
        style: |enterprise, device| format!("CNC-2026-{:06}", enterprise * 1000 + device),
    },
    Industry {
        place: "青岛",
        trade: "家电",
        products: [
            ("变频空调", "KFR-35GW"),
            ("滚筒洗衣机", "XQG100"),
            ("对开门冰箱", "BCD-501W"),
        ],
        style: |enterprise, device| {
            format!("SGTIN.06901234{:05}.A{device:04}", enterprise * 7 % 100_000)
        },
    },
    Industry {
        place: "常州",
        trade: "光伏",
        products: [
            ("单晶组件", "TSM-DE20"),
            ("组串式逆变器", "SG110CX"),
            ("汇流箱", "PVS-16M"),
        ],
        style: |enterprise, device| format!("组件/2026/{enterprise:03}{device:04}"),
    },
    Industry {
        place: "上海",
        trade: "汽车零部件",
        products: [
            ("转向机", "EPS-C3"),
            ("制动卡钳", "BC-48"),
            ("车身控制器", "BCM-2A"),
        ],
        style: |enterprise, device| format!("LSV{:04}{:06}", enterprise * 13 % 10_000, device * 17),
    },
    Industry {
        place: "深圳",
        trade: "电子",
        products: [
            ("工业网关", "IG-902"),
            ("温湿度传感器", "TH-10"),
            ("边缘控制器", "EC-6200"),
        ],
        style: |enterprise, device| {
            let (a, b) = (
                enterprise.wrapping_mul(0x9E37_79B1),
                device.wrapping_mul(0x85EB_CA6B),
            );
            format!(
                "{:08x}-{:04x}-4{:03x}-a{:03x}-{:08x}0000",
                a ^ b,
                a >> 20,
                b >> 20,
                a & 0xfff,
                b
            )
        },
    },
    Industry {
        place: "徐州",
        trade: "工程机械",
        products: [
            ("汽车起重机", "QY25K"),
            ("液压挖掘机", "XE215"),
            ("压路机", "XS223"),
        ],
        style: |enterprise, device| format!("设备_{enterprise:03}_{device:05}"),
    },
];

/// What filling has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing is in the store, or a filling was interrupted.
    Fill,
    /// The records are all there.
    Filled,
    /// The store holds something else.
    Foreign,
}

/// Looks what is in the store.
///
/// # Errors
/// The store cannot be read.
pub fn need(store: &Store) -> Result<Need, StoreError> {
    let case = store.case();
    let homed = store
        .get(
            Space::Prefix,
            &records::key(prefix_handle(PREFIX).as_bytes(), case),
        )?
        .is_some();
    let marked = store.get(Space::System, MARK)?.is_some();
    let empty = || {
        Ok(store
            .scan(Space::Handle, std::ops::Bound::Unbounded, b"", 1)?
            .is_empty())
    };
    Ok(match (marked, homed) {
        (true, true) => Need::Filled,
        (true, false) => Need::Fill,
        (false, _) if empty()? => Need::Fill,
        (false, _) => Need::Foreign,
    })
}

/// Everything as batches in the order in which they must be committed, with the number of records of each.
pub fn batches(
    site: &SiteRecord,
    admin_key: &Bytes,
    case: CaseRule,
) -> impl Iterator<Item = (Batch, u64)> {
    let (site, admin_key) = (site.clone(), admin_key.clone());
    let mark = Change {
        space: Space::System,
        key: MARK.to_vec(),
        expect: Expect::Any,
        action: Action::Put(Draft {
            handle: Bytes::from_static(MARK),
            values: Vec::new(),
        }),
    };
    let last = vec![
        records::put_values(
            prefix_handle(PREFIX).as_bytes(),
            &identity::prefix_values(
                prefix_handle(PREFIX).as_bytes(),
                std::slice::from_ref(&site),
                admin_key.clone(),
                EPOCH,
            ),
            case,
        ),
        records::home_prefix(prefix_handle(PREFIX).as_bytes(), case),
    ];
    let enterprises = (1..=ENTERPRISES).map(move |number| {
        let mut changes: Vec<Change> = (1..=DEVICES)
            .map(|device| device_record(number, device, case))
            .collect();
        changes.extend(enterprise_records(number, &site, &admin_key, case));
        (records::batch(changes), u64::from(DEVICES) + 1)
    });
    std::iter::once((records::batch(vec![mark]), 0))
        .chain(enterprises)
        .chain(std::iter::once((records::batch(last), 1)))
}

/// Handles worth resolving, to show.
#[must_use]
pub fn samples() -> [String; 3] {
    [
        device_handle(1, 1),
        device_handle(3, 18),
        device_handle(300, 180),
    ]
}

/// The prefix handle of a prefix.
fn prefix_handle(prefix: &str) -> String {
    format!("0.NA/{prefix}")
}

/// The industry of an enterprise.
fn industry(enterprise: u32) -> &'static Industry {
    let [first, second, third, fourth, fifth, sixth] = &INDUSTRIES;
    match enterprise % 6 {
        1 => first,
        2 => second,
        3 => third,
        4 => fourth,
        5 => fifth,
        _ => sixth,
    }
}

/// The handle of a device.
fn device_handle(enterprise: u32, device: u32) -> String {
    format!(
        "{PREFIX}.{enterprise}/{}",
        (industry(enterprise).style)(enterprise, device)
    )
}

/// The record and the homing of an enterprise's prefix.
fn enterprise_records(
    number: u32,
    site: &SiteRecord,
    admin_key: &Bytes,
    case: CaseRule,
) -> [Change; 2] {
    let handle = prefix_handle(&format!("{PREFIX}.{number}"));
    let industry = industry(number);
    let name = format!("{}{}企业第{number}号", industry.place, industry.trade);
    let timestamp = EPOCH + number;
    let mut values = identity::prefix_values(
        handle.as_bytes(),
        std::slice::from_ref(site),
        admin_key.clone(),
        timestamp,
    );
    values.push(text(400, b"ENTERPRISE_NAME", name, timestamp));
    [
        records::put_values(handle.as_bytes(), &values, case),
        records::home_prefix(handle.as_bytes(), case),
    ]
}

/// A device of 3 or 4 values.
fn device_record(enterprise: u32, device: u32, case: CaseRule) -> Change {
    let handle = device_handle(enterprise, device);
    let industry = industry(enterprise);
    let [first, second, third] = &industry.products;
    let (product, model) = match device % 3 {
        0 => first,
        1 => second,
        _ => third,
    };
    let timestamp = EPOCH + 60 * (enterprise * DEVICES + device);
    let url = format!("https://e{enterprise}.example.cn/product/{device}");
    let mut values: Vec<Value> = vec![
        text(1, b"URL", url, timestamp),
        text(2, b"PRODUCT_NAME", format!("{product} {model}"), timestamp),
        identity::admin_value(
            prefix_handle(&format!("{PREFIX}.{enterprise}")).as_bytes(),
            identity::KEY_INDEX,
            timestamp,
        ),
    ];
    if device.is_multiple_of(2) {
        let made = format!(
            "{}，批次 {:04}-{:02}",
            industry.place,
            2026,
            1 + device % 12
        );
        values.push(text(3, b"PRODUCTION", made, timestamp));
    }
    records::put_values(handle.as_bytes(), &values, case)
}

/// A value of text.
fn text(index: u32, kind: &'static [u8], text: String, timestamp: u32) -> Value {
    identity::value(index, kind, Bytes::from(text), timestamp)
}
