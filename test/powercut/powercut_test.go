// SPDX-License-Identifier: Apache-2.0

package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// The disk: a file system, and behind it a sector where the guest notes how many
// changes it knows to be done, to the stores in turn.
const (
	fsSize   = 48 << 20
	diskSize = fsSize + 1<<20
	sector   = 512
	changes  = 240
)

// helperEnv makes the test binary the guest's program: it holds the stores' folder
// and the disk.
const helperEnv = "PB_POWERCUT"

func TestMain(m *testing.M) {
	if spec := os.Getenv(helperEnv); spec != "" {
		dir, disk, _ := strings.Cut(spec, ",")
		if err := write(dir, disk); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// write is the guest's program.
func write(dir, disk string) error {
	notes, err := unix.Open(disk, unix.O_WRONLY|unix.O_DIRECT|unix.O_SYNC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", disk, err)
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return err
	}
	all := keepers()
	for i := range changes {
		k := all[i%len(all)]
		if err := k.change(dir, i/len(all)); err != nil {
			return fmt.Errorf("change %d of the %s: %w", i/len(all), k.name, err)
		}
		binary.LittleEndian.PutUint64(page, uint64(i+1))
		if _, err := unix.Pwrite(notes, page[:sector], fsSize); err != nil {
			return fmt.Errorf("note change %d: %w", i, err)
		}
	}
	return nil
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && filepath.Base(name) == "e2fsck" && exit.ExitCode() == 1 {
		return // errors corrected: the journal was behind
	}
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// entry is a write to the disk, or a flush.
type entry struct {
	sector uint64
	data   []byte
	flush  bool
	fua    bool
}

// readLog reads a log in dm-log-writes' format.
func readLog(t *testing.T, path string) []entry {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const magic, flagFlush, flagFUA, flagDiscard = 0x6a736677736872, 1, 2, 4
	if binary.LittleEndian.Uint64(raw) != magic {
		t.Fatalf("%s is no log", path)
	}
	count := int(binary.LittleEndian.Uint64(raw[16:]))
	entries := make([]entry, 0, count)
	at := sector
	for range count {
		head := raw[at:]
		flags := binary.LittleEndian.Uint64(head[16:])
		e := entry{sector: binary.LittleEndian.Uint64(head), flush: flags&flagFlush != 0, fua: flags&flagFUA != 0}
		size := int(binary.LittleEndian.Uint64(head[8:])) * sector
		at += sector
		if flags&flagDiscard == 0 {
			e.data = raw[at : at+size]
			at += size
		}
		entries = append(entries, e)
	}
	return entries
}

// cut makes the disk as it is after a cut behind so many entries: what was written
// since the last flush is there or not, sector by sector. Extra sectors before it
// are reverted too: the disk lied about them. It returns the last change that the
// guest knew to be done.
func cut(disk []byte, entries []entry, r *rand.Rand, behind, extra int) (noted int) {
	flushed := 0
	for i, e := range entries[:behind] {
		if e.flush {
			flushed = i
		}
	}
	total := 0
	for i := flushed - 1; i >= 0 && total < extra; i-- { // back until so many sectors are in doubt
		total += len(entries[i].data) / sector
		flushed = i
	}
	for i, e := range entries[:behind] {
		for n := 0; n < len(e.data); n += sector {
			to := e.sector*sector + uint64(n)
			if to == fsSize {
				noted = int(binary.LittleEndian.Uint64(e.data[n:]))
			}
			if i < flushed || e.fua && extra == 0 || r.IntN(2) == 0 {
				copy(disk[to:], e.data[n:n+sector])
			}
		}
	}
	return noted
}

// record lets a guest change the stores and returns the disk from before, and the log.
func record(t *testing.T) (before []byte, entries []entry) {
	dir := t.TempDir()
	guest, image, log := filepath.Join(dir, "guest"), filepath.Join(dir, "disk"), filepath.Join(dir, "log")
	run(t, "go", "build", "-o", guest, "../guest")
	for path, size := range map[string]int64{image: diskSize, log: 1 << 30} {
		f, err := os.Create(path)
		if err = errors.Join(err, f.Truncate(size), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "/usr/sbin/mkfs.ext4", "-q", "-F", image, strconv.Itoa(fsSize>>10)+"K")
	before, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("modprobe virtio_blk; mkdir -p /run/disk && mount -t ext4 /dev/vda /run/disk && %s=/run/disk,/dev/vda %s", helperEnv, self)
	run(t, guest, "-timeout", "150s", "-disk", image+":"+log, "6.12", "/bin/sh", "-c", script)
	return before, readLog(t, log)
}

func TestPowerCut(t *testing.T) {
	netlab.Require(t)
	for _, tool := range []string{"qemu-system-x86_64", "/usr/sbin/mkfs.ext4", "/usr/sbin/debugfs", "/usr/sbin/e2fsck"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("needs %s: test/deps.sh installs it", tool)
		}
	}
	cuts := 6
	if text := os.Getenv("PATCHBAY_POWERCUTS"); text != "" {
		var err error
		if cuts, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	states := model(t)
	before, entries := record(t)
	t.Logf("%d writes and flushes", len(entries))
	dropped, older := map[string]int{}, map[string]int{}
	for i := range cuts {
		r := rand.New(rand.NewPCG(uint64(i), 1))
		lies := 0
		if i%2 == 1 {
			lies = 1 + r.IntN(64)
		}
		t.Run(fmt.Sprintf("%d lies=%d", i, lies), func(t *testing.T) {
			disk := slices.Clone(before)
			behind := 1 + r.IntN(len(entries))
			noted := cut(disk, entries, r, behind, lies)
			dir := recovered(t, disk)
			for n, k := range keepers() {
				done := (noted + len(states) - 1 - n) / len(states) // of the changes to this store
				at, said := judge(t, k, dir, states[n], done, lies > 0)
				switch {
				case said != nil:
					dropped[k.name]++
				case at < done:
					older[k.name]++
				}
			}
			if t.Failed() {
				t.Logf("cut after %d of %d entries", behind, len(entries))
			}
		})
	}
	t.Logf("%d cuts; of the disks that lied so many stores said what they dropped: %v, so many were older ones: %v", cuts, dropped, older)
}

// model makes the changes without a cut and returns each store's states.
func model(t *testing.T) [][]string {
	states := make([][]string, len(keepers()))
	for n, k := range keepers() {
		dir := t.TempDir()
		for i := range changes/len(states) + 1 {
			text, said, err := k.contents(dir)
			if err := errors.Join(said, err); err != nil {
				t.Fatalf("%s: %v", k.name, err)
			}
			states[n] = append(states[n], text)
			if err := k.change(dir, i); err != nil {
				t.Fatalf("%s: %v", k.name, err)
			}
		}
	}
	return states
}

// judge opens a store after a cut. What was known to be done is there, and nothing
// else but the change under way; on a disk that lied, an earlier state is there,
// or the store says what it dropped.
func judge(t *testing.T, k keeper, dir string, states []string, done int, lied bool) (at int, said error) {
	t.Helper()
	got, said, err := k.contents(dir)
	if err != nil {
		t.Errorf("open the %s: %v", k.name, err)
		return 0, said
	}
	at = slices.Index(states, got)
	switch {
	case !lied && said != nil:
		t.Errorf("the %s were damaged: %v", k.name, said)
	case !lied && got != states[done] && (done+1 == len(states) || got != states[done+1]):
		t.Errorf("the %s are %s, want %s or the change under way", k.name, got, states[done])
	case lied && at < 0 && said == nil:
		t.Errorf("the %s are %s, which never was, and nothing is said", k.name, got)
	}
	return at, said
}

// recovered lets the file system recover and takes the stores out of it.
func recovered(t *testing.T, disk []byte) (dir string) {
	t.Helper()
	base := t.TempDir()
	image, out := filepath.Join(base, "disk"), filepath.Join(base, "out")
	if err := errors.Join(os.WriteFile(image, disk[:fsSize], 0o600), os.Mkdir(out, 0o700)); err != nil {
		t.Fatal(err)
	}
	run(t, "/usr/sbin/e2fsck", "-fy", image)
	run(t, "/usr/sbin/debugfs", "-R", "rdump / "+out, image)
	return out
}
