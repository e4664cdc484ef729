//! Each promise of the simulated disk, and each way it breaks one, as a claim.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::*;
use crate::disk_error::raw_os_error;

const SEEDS: u64 = 400;

#[test]
fn synced_bytes_are_never_lost() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[7; 3000]);
    file.write_all_at(&[8; 2000], 3000).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[9; 5000], 5000).unwrap();

    for seed in 0..SEEDS {
        let bytes = read(&disk.crash(seed), "x").expect("the entry was synced");

        assert!(bytes.len() >= 5000, "seed {seed}: {} bytes", bytes.len());
        assert_eq!(bytes[..3000], [7; 3000], "seed {seed}");
        assert_eq!(bytes[3000..5000], [8; 2000], "seed {seed}");
    }
}

#[test]
fn unsynced_sectors_are_lost_and_kept_independently_and_out_of_order() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[0; 3 * 512]);
    for sector in 0..3 {
        file.write_all_at(&[1; 512], sector * 512).unwrap();
    }

    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let bytes = read(&disk.crash(seed), "x").unwrap();
        seen.insert([bytes[0], bytes[512], bytes[1024]]);
    }

    assert_eq!(seen.len(), 8, "every subset of three sectors: {seen:?}");
}

#[test]
fn a_sector_written_many_times_shows_any_of_its_states() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[0; 512]);
    for state in 1..=4 {
        file.write_all_at(&[state; 512], 0).unwrap();
    }

    let seen: BTreeSet<u8> =
        (0..SEEDS).map(|seed| read(&disk.crash(seed), "x").unwrap()[511]).collect();

    assert_eq!(seen, BTreeSet::from([0, 1, 2, 3, 4]));
}

#[test]
fn at_most_one_sector_is_torn_and_its_new_bytes_come_first() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[0; 8 * 512]);
    file.write_all_at(&[1; 8 * 512], 0).unwrap();

    let mut torn_count = 0;
    for seed in 0..SEEDS {
        let bytes = read(&disk.crash(seed), "x").unwrap();
        let torn: Vec<&[u8]> =
            bytes.chunks(512).filter(|sector| sector.windows(2).any(|w| w[0] != w[1])).collect();

        assert!(torn.len() <= 1, "seed {seed}: {} torn sectors", torn.len());
        assert!(torn.iter().all(|sector| sector.is_sorted_by(|old, new| old >= new)));
        torn_count += torn.len() as u64;
    }

    assert!(torn_count > SEEDS / 4 && torn_count < SEEDS, "{torn_count} of {SEEDS} are torn");
}

#[test]
fn an_unsynced_length_may_be_any_the_file_went_through() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[5; 100]);
    file.write_all_at(&[6; 1000], 100).unwrap();

    let lens: BTreeSet<usize> =
        (0..SEEDS).map(|seed| read(&disk.crash(seed), "x").unwrap().len()).collect();

    assert_eq!(lens, BTreeSet::from([100, 512, 1024, 1100]));
}

#[test]
fn a_kept_length_without_its_bytes_reads_as_zeros() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", b"");
    file.write_all_at(&[6; 512], 0).unwrap();

    let hole = (0..SEEDS).any(|seed| read(&disk.crash(seed), "x").is_some_and(|it| it == [0; 512]));

    assert!(hole, "no seed kept the length and lost the sector");
}

#[test]
fn an_unsynced_directory_entry_may_vanish_with_its_synced_bytes() {
    let disk = SimDisk::new(0);
    let file = disk.create(Path::new("x")).unwrap();
    file.write_all_at(b"data", 0).unwrap();
    file.sync_data().unwrap();

    let vanished = (0..SEEDS).filter(|seed| read(&disk.crash(*seed), "x").is_none()).count();
    assert!(vanished > 0 && vanished < SEEDS as usize, "{vanished} of {SEEDS} vanished");

    disk.sync_dir(Path::new("")).unwrap();
    for seed in 0..SEEDS {
        assert_eq!(read(&disk.crash(seed), "x").as_deref(), Some(b"data".as_slice()));
    }
}

#[test]
fn a_directory_whose_parent_is_not_synced_vanishes_with_everything_in_it() {
    let disk = SimDisk::new(0);
    disk.create_dir_all(Path::new("a/b")).unwrap();
    durable_file(&disk, "a/b/x", b"data");
    disk.sync_dir(Path::new("a")).unwrap();

    assert!(disk.crash_image(Crash::LoseUnsynced).contents().is_empty());

    disk.sync_dir(Path::new("")).unwrap();
    assert_eq!(read(&disk.crash_image(Crash::LoseUnsynced), "a/b/x").unwrap(), b"data");
}

#[test]
fn edits_of_one_directory_survive_in_order_and_of_two_independently() {
    let disk = SimDisk::new(0);
    for dir in ["a", "b"] {
        disk.create_dir_all(Path::new(dir)).unwrap();
    }
    disk.sync_dir(Path::new("")).unwrap();
    for path in ["a/1", "b/1", "a/2", "b/2"] {
        disk.create(Path::new(path)).unwrap();
    }

    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let image = disk.crash(seed);
        let has = |path: &str| read(&image, path).is_some();
        assert!(has("a/1") || !has("a/2"), "seed {seed}: the second edit without the first");
        seen.insert([has("a/1"), has("a/2"), has("b/1"), has("b/2")]);
    }

    assert_eq!(seen.len(), 9, "three prefixes times three: {seen:?}");
}

#[test]
fn a_rename_is_atomic_and_durable_only_after_the_directory_is_synced() {
    let disk = SimDisk::new(0);
    durable_file(&disk, "current", b"old");
    durable_file(&disk, "next", b"new");
    disk.rename(Path::new("next"), Path::new("current")).unwrap();

    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let image = disk.crash(seed);
        seen.insert((read(&image, "current"), read(&image, "next")));
    }
    let before = (Some(b"old".to_vec()), Some(b"new".to_vec()));
    let after = (Some(b"new".to_vec()), None);
    assert_eq!(seen, BTreeSet::from([before, after.clone()]));

    disk.sync_dir(Path::new("")).unwrap();
    let image = disk.crash_image(Crash::LoseUnsynced);
    assert_eq!((read(&image, "current"), read(&image, "next")), after);
}

#[test]
fn a_file_moved_between_directories_never_loses_both_names() {
    for synced in [None, Some("a"), Some("b")] {
        let disk = SimDisk::new(0);
        disk.create_dir_all(Path::new("a")).unwrap();
        disk.create_dir_all(Path::new("b")).unwrap();
        disk.sync_dir(Path::new("")).unwrap();
        durable_file(&disk, "a/x", b"data");
        disk.rename(Path::new("a/x"), Path::new("b/x")).unwrap();
        if let Some(dir) = synced {
            disk.sync_dir(Path::new(dir)).unwrap();
        }

        let mut seen = BTreeSet::new();
        for seed in 0..SEEDS {
            let image = disk.crash(seed);
            seen.insert((read(&image, "a/x").is_some(), read(&image, "b/x").is_some()));
            let used = image.space().unwrap();
            assert_eq!(used.total - used.available, 4, "seed {seed}: one file of 4 bytes");
            for path in ["a/x", "b/x"] {
                let _ = image.remove(Path::new(path));
            }
            assert_eq!(image.space().unwrap().available, used.total, "seed {seed}");
        }

        let expected: &[(bool, bool)] = match synced {
            None => &[(true, false), (true, true), (false, true)],
            Some("a") => &[(false, true)],
            Some(_) => &[(true, true), (false, true)],
        };
        assert_eq!(seen, expected.iter().copied().collect(), "synced: {synced:?}");
    }
}

#[test]
fn a_removed_file_may_come_back_until_its_directory_is_synced() {
    let disk = SimDisk::new(0);
    durable_file(&disk, "x", b"data");
    disk.remove(Path::new("x")).unwrap();

    let seen: BTreeSet<_> = (0..SEEDS).map(|seed| read(&disk.crash(seed), "x")).collect();
    assert_eq!(seen, BTreeSet::from([None, Some(b"data".to_vec())]));

    disk.sync_dir(Path::new("")).unwrap();
    assert!((0..SEEDS).all(|seed| read(&disk.crash(seed), "x").is_none()));
}

#[test]
fn a_removed_directory_is_not_gone_before_what_was_moved_out_of_it_has_arrived() {
    let disk = SimDisk::new(0);
    disk.create_dir_all(Path::new("a")).unwrap();
    disk.create_dir_all(Path::new("b")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    durable_file(&disk, "a/x", b"data");
    disk.rename(Path::new("a/x"), Path::new("b/x")).unwrap();
    disk.remove_dir(Path::new("a")).unwrap();

    for seed in 0..SEEDS {
        let image = disk.crash(seed);
        assert!(read(&image, "a/x").is_some() || read(&image, "b/x").is_some(), "seed {seed}");
    }
}

#[test]
fn a_killed_process_loses_nothing_but_its_locks_and_leaves_it_unsynced() {
    let disk = SimDisk::new(0);
    let file = disk.create(Path::new("x")).unwrap();
    file.write_all_at(b"data", 0).unwrap();
    let _held = disk.lock(Path::new("LOCK")).unwrap();

    let after_kill = disk.crash_image(Crash::Process);
    let after_power_cut = after_kill.crash_image(Crash::LoseUnsynced);

    assert_eq!(read(&after_kill, "x").unwrap(), b"data");
    after_kill.lock(Path::new("LOCK")).expect("a dead process holds no lock");
    assert!(after_power_cut.contents().is_empty());
}

#[test]
fn an_image_is_independent_of_the_running_disk() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[1; 1000]);
    let image = disk.crash(1);

    file.write_all_at(&[2; 1000], 0).unwrap();
    image.open(Path::new("x")).unwrap().write_all_at(&[3; 10], 0).unwrap();

    assert_eq!(read(&disk, "x").unwrap(), [2; 1000]);
    assert_eq!(read(&image, "x").unwrap()[..11], [3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 1]);
}

#[test]
fn the_same_seed_leaves_the_same_image() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[1; 4000]);
    for position in [0, 700, 3000, 4000, 9000] {
        file.write_all_at(&[2; 1500], position).unwrap();
    }
    disk.create(Path::new("y")).unwrap();
    disk.rename(Path::new("y"), Path::new("z")).unwrap();

    let mut images = BTreeSet::new();
    for seed in 0..SEEDS {
        let image = disk.crash(seed).contents();
        assert_eq!(image, disk.crash(seed).contents(), "seed {seed}");
        images.insert(image);
    }

    assert!(images.len() > SEEDS as usize / 2, "only {} different images", images.len());
}

#[test]
fn a_failed_sync_drops_the_bytes_and_the_next_one_says_ok() {
    for (fault, cached) in
        [(SyncFault::DropKeepingCache, b"new"), (SyncFault::DropWithCache, b"old")]
    {
        let disk = SimDisk::new(0);
        let file = durable_file(&disk, "x", b"old");
        disk.set_faults(Faults { syncs: [(1, fault)].into(), ..Faults::default() });
        file.write_all_at(b"new", 0).unwrap();

        let failed = file.sync_data().expect_err("the plan says so");
        file.sync_data().expect("fsyncgate: dirty pages count as clean");

        assert_eq!(raw_os_error(&failed), Some(EIO));
        assert_eq!(read(&disk, "x").unwrap(), cached, "{fault:?}");
        for seed in 0..SEEDS {
            assert_eq!(read(&disk.crash(seed), "x").unwrap(), b"old", "{fault:?}, seed {seed}");
        }
        // Other sectors are not harmed: written and synced later, they survive next to the hole.
        file.write_all_at(b"late", 4096).unwrap();
        file.sync_data().unwrap();
        let bytes = read(&disk.crash(1), "x").unwrap();
        assert_eq!((&bytes[..3], &bytes[4096..]), (b"old".as_slice(), b"late".as_slice()));
    }
}

#[test]
fn a_failed_directory_sync_loses_the_entry_though_the_next_one_says_ok() {
    let disk = SimDisk::new(0);
    disk.create(Path::new("x")).unwrap();
    let syncs = [(1, SyncFault::DropKeepingCache)].into();
    disk.set_faults(Faults { syncs, ..Faults::default() });

    disk.sync_dir(Path::new("")).expect_err("the plan says so");
    disk.sync_dir(Path::new("")).unwrap();

    assert!(read(&disk, "x").is_some());
    assert!((0..SEEDS).all(|seed| read(&disk.crash(seed), "x").is_none()));
}

#[test]
fn an_honest_failed_sync_can_be_tried_again_and_a_lying_one_keeps_nothing() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", b"old");
    file.write_all_at(b"new", 0).unwrap();

    disk.set_faults(Faults { all_syncs_lie: true, ..Faults::default() });
    file.sync_data().expect("it lies");
    assert_eq!(read(&disk.crash_image(Crash::LoseUnsynced), "x").unwrap(), b"old");

    disk.set_faults(Faults { syncs: [(1, SyncFault::Error)].into(), ..Faults::default() });
    file.sync_data().expect_err("the plan says so");
    assert_eq!(read(&disk.crash_image(Crash::LoseUnsynced), "x").unwrap(), b"old");
    file.sync_data().unwrap();
    assert_eq!(read(&disk.crash_image(Crash::LoseUnsynced), "x").unwrap(), b"new");
}

#[test]
fn space_ends_at_the_byte_and_comes_back_with_the_last_name_and_handle() {
    let disk = SimDisk::new(0);
    disk.set_capacity(1000);
    let file = disk.create(Path::new("x")).unwrap();

    assert_eq!(file.write_at(&[1; 1200], 0).unwrap(), 1000, "a short write up to the end");
    let full = file.write_at(&[1; 1], 1000).expect_err("full");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    let no_create = disk.create(Path::new("y")).expect_err("full");
    assert_eq!(raw_os_error(&no_create), Some(ENOSPC));
    file.write_all_at(&[2; 1000], 0).expect("overwriting takes no room");
    assert_eq!(disk.space().unwrap(), Space { available: 0, total: 1000 });

    disk.remove(Path::new("x")).unwrap();
    assert_eq!(disk.space().unwrap().available, 0, "the file is still open");
    drop(file);
    assert_eq!(disk.space().unwrap().available, 1000);
    disk.create(Path::new("y")).unwrap().write_all_at(&[3; 1000], 0).unwrap();
}

#[test]
fn every_call_fails_when_its_number_comes_and_no_other() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[1; 100]);
    let mut buffer = [0; 100];
    disk.set_faults(Faults {
        reads: [(2, ReadFault::Error), (3, ReadFault::Short { bytes_max: 7 })].into(),
        writes: [
            (1, WriteFault::Error),
            (2, WriteFault::Short { bytes_max: 3 }),
            (4, WriteFault::NoSpace),
        ]
        .into(),
        names: [(2, NameFault::Error), (3, NameFault::TooManyOpenFiles)].into(),
        ..Faults::default()
    });

    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 100);
    assert_eq!(raw_os_error(&file.read_at(&mut buffer, 0).expect_err("EIO")), Some(EIO));
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 7);
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 100);

    assert_eq!(raw_os_error(&file.write_at(&[2; 10], 0).expect_err("EIO")), Some(EIO));
    assert_eq!(file.write_at(&[2; 10], 0).unwrap(), 3);
    assert_eq!(file.write_at(&[3; 10], 3).unwrap(), 10);
    let full = file.write_at(&[4; 10], 0).expect_err("ENOSPC");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    assert_eq!(read_all(&file)[..14], [2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 1]);

    disk.open(Path::new("x")).unwrap();
    disk.rename(Path::new("x"), Path::new("y")).expect_err("EIO");
    let no_handle = disk.create(Path::new("z")).expect_err("EMFILE");
    assert_eq!(raw_os_error(&no_handle), Some(EMFILE));
    disk.rename(Path::new("x"), Path::new("y")).expect("the plan is over, the first did nothing");
}

#[test]
fn short_reads_and_writes_come_by_seed_and_never_empty() {
    let counts = |seed: u64| -> Vec<usize> {
        let disk = SimDisk::new(seed);
        let file = durable_file(&disk, "x", b"");
        disk.set_faults(Faults { short_per_1024: 512, ..Faults::default() });
        (0..100).map(|_| file.write_at(&[1; 50], 0).unwrap()).collect()
    };

    assert!(counts(1).iter().all(|&count| (1..=50).contains(&count)));
    assert!(counts(1).contains(&50) && counts(1).iter().any(|&count| count < 50));
    assert_eq!(counts(1), counts(1));
    assert_ne!(counts(1), counts(2));
}

#[test]
fn a_flipped_bit_and_a_zeroed_block_are_read_now_and_after_the_crash() {
    let disk = SimDisk::new(0);
    durable_file(&disk, "x", &[0b1010; 3000]);

    disk.flip_bit(Path::new("x"), 2000 * 8 + 1).unwrap();
    disk.zero(Path::new("x"), 512..1024).unwrap();

    let mut expected = vec![0b1010; 3000];
    expected[2000] = 0b1000;
    expected[512..1024].fill(0);
    assert_eq!(read(&disk, "x").unwrap(), expected);
    assert_eq!(read(&disk.crash(1), "x").unwrap(), expected);
}

#[test]
fn damage_below_an_unsynced_sector_shows_only_if_that_sector_is_lost() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[1; 512]);
    file.write_all_at(&[2; 512], 0).unwrap();

    disk.flip_bit(Path::new("x"), 7).unwrap();

    assert_eq!(read(&disk, "x").unwrap(), [2; 512]);
    assert_eq!(read(&disk.crash_image(Crash::LoseUnsynced), "x").unwrap()[..2], [0x81, 1]);
    file.sync_data().unwrap();
    assert_eq!(read(&disk.crash(1), "x").unwrap(), [2; 512]);
}

#[test]
fn lost_and_misdirected_writes_show_only_after_the_cache_is_gone() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[1; 4 * 512]);
    let writes = [(1, WriteFault::Lost), (2, WriteFault::Misdirected { sectors: 2 })].into();
    disk.set_faults(Faults { writes, ..Faults::default() });
    file.write_all_at(&[2; 512], 0).unwrap();
    file.write_all_at(&[3; 512], 512).unwrap();
    file.sync_data().unwrap();

    let starts = |bytes: Vec<u8>| [bytes[0], bytes[512], bytes[1024], bytes[1536]];
    assert_eq!(starts(read(&disk, "x").unwrap()), [2, 3, 1, 1]);
    assert_eq!(starts(read(&disk.crash(1), "x").unwrap()), [1, 1, 1, 3]);
}

#[test]
fn a_bit_flipped_while_reading_is_right_the_next_time() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[0; 4]);
    let reads = [(1, ReadFault::FlippedBit { bit: 9 })].into();
    disk.set_faults(Faults { reads, ..Faults::default() });

    assert_eq!(read_all(&file), [0, 2, 0, 0]);
    assert_eq!(read_all(&file), [0; 4]);
}

#[test]
fn the_power_goes_before_the_nth_operation_and_stays_gone() {
    let run = |disk: &SimDisk| -> io::Result<()> {
        let file = disk.create(Path::new("x"))?;
        file.write_all_at(b"data", 0)?;
        file.sync_data()?;
        disk.sync_dir(Path::new(""))
    };
    let whole = SimDisk::new(0);
    run(&whole).unwrap();
    assert_eq!(whole.operations(), 4);

    let lens_visible = [None, Some(0), Some(4), Some(4)];
    for (operation, len) in (1..=4).zip(lens_visible) {
        let disk = SimDisk::new(0);
        disk.set_crash_after(operation);

        let error = run(&disk).expect_err("the power goes");

        assert!(is_power_loss(&error) && disk.has_lost_power(), "{error}");
        assert!(is_power_loss(&disk.open(Path::new("x")).expect_err("no power")));
        assert!(is_power_loss(&disk.rename(Path::new("x"), Path::new("y")).expect_err("no power")));
        assert_eq!(disk.operations(), operation);
        let after_kill = disk.crash_image(Crash::Process);
        assert_eq!(read(&after_kill, "x").map(|bytes| bytes.len()), len, "operation {operation}");
    }
}

#[test]
fn an_observer_sees_the_disk_after_every_operation_and_may_take_images() {
    let disk = SimDisk::new(0);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    disk.set_observer(Some(Arc::new(move |disk: &SimDisk| {
        let survivor = read(&disk.crash_image(Crash::LoseUnsynced), "x").map(|it| it.len());
        log.lock().unwrap().push((disk.operations(), disk.unsynced_count(), survivor));
    })));

    let file = disk.create(Path::new("x")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    file.write_all_at(&[1; 600], 0).unwrap();
    file.sync_data().unwrap();
    disk.set_observer(None);
    file.write_all_at(&[1; 600], 0).unwrap();

    let expected = [(1, 1, None), (2, 0, Some(0)), (3, 2, Some(0)), (4, 0, Some(600))];
    assert_eq!(*seen.lock().unwrap(), expected);
}

#[test]
fn a_lock_is_exclusive_until_dropped() {
    let disk = SimDisk::new(0);
    let held = disk.lock(Path::new("LOCK")).unwrap();

    let refused = disk.clone().lock(Path::new("LOCK")).expect_err("held");
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);

    drop(held);
    disk.lock(Path::new("LOCK")).unwrap();
}

#[test]
fn crash_images_are_cheap_enough_for_a_million_points() {
    let disk = SimDisk::new(0);
    let file = durable_file(&disk, "x", &[1; 32 << 10]);
    file.write_all_at(&[2; 64 << 10], 0).unwrap();
    assert_eq!(disk.unsynced_count(), 128);

    let (start, count) = (std::time::Instant::now(), 2000);
    let total: u64 =
        (0..count).map(|seed| disk.crash(seed).open(Path::new("x")).unwrap().len().unwrap()).sum();
    let per_second = count as f64 / start.elapsed().as_secs_f64();

    eprintln!("{per_second:.0} crash images per second, 64 KiB all unsynced");
    assert!(total >= count * (32 << 10), "an image lost synced bytes");
}

/// Creates a file whose bytes and entry are durable.
fn durable_file(disk: &SimDisk, path: &str, data: &[u8]) -> SimFile {
    let file = disk.create(Path::new(path)).unwrap();
    file.write_all_at(data, 0).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new(path).parent().unwrap()).unwrap();
    file
}

/// Reads a file as it stands, without spending a fault.
fn read(disk: &SimDisk, path: &str) -> Option<Vec<u8>> {
    disk.contents().remove(Path::new(path)).flatten()
}

fn read_all(file: &SimFile) -> Vec<u8> {
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}
