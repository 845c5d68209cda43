//! The serial number of a SCSI unit whose driver keeps it in no attribute of its own: vital product data, page 0x80.
//!
//! Most disks have a `wwid` (page 0x83), and that is asked first. Those of virtual machines often name themselves there
//! in a way that the kernel does not take (`scsi_vpd_lun_id`, drivers/scsi/scsi_lib.c), and have this page.

use std::path::Path;

/// Maker, model and serial number, as udev's `scsi_id` puts them together.
pub fn serial(disk: &Path) -> Option<String> {
    let page = std::fs::read(disk.join("device/vpd_pg80")).ok()?;
    let word = |name: &str| {
        let text = std::fs::read_to_string(disk.join("device").join(name)).unwrap_or_default();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    Some([word("vendor"), word("model"), number(&page)?].join(" ").trim().to_owned())
}

/// The page: device type, 0x80, two bytes of length, then the number, filled up with blanks.
fn number(page: &[u8]) -> Option<String> {
    let [_, 0x80, high, low, rest @ ..] = page else { return None };
    let number = rest.get(..usize::from(u16::from_be_bytes([*high, *low])))?;
    let number = std::str::from_utf8(number).ok()?.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    let plain = !number.is_empty() && !number.contains(char::is_control);
    plain.then(|| number.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_and_garbage_is_not() {
        assert_eq!(number(b"\0\x80\0\x04  ab").as_deref(), Some("ab"));
        assert_eq!(number(b"\0\x80\0\x03abcd").as_deref(), Some("abc"));
        for page in [
            &b""[..],
            b"\0\x80\0",
            b"\0\x80\0\x04ab",
            b"\0\x83\0\x02ab",
            b"\0\x80\0\x02  ",
            b"\0\x80\0\x02\xff\xfe",
        ] {
            assert_eq!(number(page), None, "{page:?}");
        }
    }

    #[test]
    fn maker_and_model_belong_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let device = folder.path().join("device");
        std::fs::create_dir(&device).unwrap();
        assert_eq!(serial(folder.path()), None);
        let write = |name: &str, bytes: &[u8]| {
            use std::io::Write;
            std::fs::File::create(device.join(name)).unwrap().write_all(bytes).unwrap();
        };
        write("vpd_pg80", b"\0\x80\0\x03raw");
        write("vendor", b"QEMU    \n");
        write("model", b"QEMU HARDDISK   \n");
        assert_eq!(serial(folder.path()).as_deref(), Some("QEMU QEMU HARDDISK raw"));
    }
}
