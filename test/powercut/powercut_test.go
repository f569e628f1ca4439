// SPDX-License-Identifier: Apache-2.0

package powercut

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/ipam"
	"github.com/patchbay-net/patchbay/ipam/store"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// The disk: a file system, and behind it a sector where the guest notes which
// change it knows to be done.
const (
	fsSize   = 48 << 20
	diskSize = fsSize + 1<<20
	sector   = 512
	changes  = 120
)

// helperEnv makes the test binary the guest's program: it holds the store's path
// and the disk's.
const helperEnv = "PB_POWERCUT"

func TestMain(m *testing.M) {
	if spec := os.Getenv(helperEnv); spec != "" {
		path, disk, _ := strings.Cut(spec, ",")
		if err := write(path, disk); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// change makes the i-th change: every third gives an address back. Nothing of it
// depends on the time.
func change(s *store.Store, i int) error {
	key := store.Key{ContainerID: fmt.Sprint("vm-", i*7%20), IfName: "eth0"}
	if i%3 == 2 {
		_, _, err := s.Release(key, 0)
		return err
	}
	pool, err := ipam.NewPool("nodes", ipam.Subnet{Prefix: netip.MustParsePrefix("192.0.2.0/25")})
	if err != nil {
		return err
	}
	_, err = s.Allocate(store.Request{Pools: []ipam.Pool{pool}, Lease: store.Lease{Key: key, Network: "n", Owner: key.ContainerID}})
	return err
}

// write is the guest's program.
func write(path, disk string) error {
	notes, err := unix.Open(disk, unix.O_WRONLY|unix.O_DIRECT|unix.O_SYNC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", disk, err)
	}
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE) // aligned
	if err != nil {
		return err
	}
	s := store.New(path, store.Options{Durable: true})
	for i := range changes {
		if err := change(s, i); err != nil {
			return fmt.Errorf("change %d: %w", i, err)
		}
		binary.LittleEndian.PutUint64(page, uint64(i+1))
		if _, err := unix.Pwrite(notes, page[:sector], fsSize); err != nil {
			return fmt.Errorf("note change %d: %w", i, err)
		}
	}
	return nil
}

// contents is who has which address.
func contents(t *testing.T, s *store.Store) string {
	t.Helper()
	c, err := s.List()
	if err != nil {
		t.Fatalf("open the store: %v", err)
	}
	var lines []string
	seen := map[netip.Addr]bool{}
	for _, l := range c.Leases {
		for _, a := range l.Addrs {
			if seen[a] {
				t.Errorf("%s is two leases'", a)
			}
			seen[a] = true
		}
		lines = append(lines, fmt.Sprint(l.ContainerID, l.Addrs))
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
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

// record lets a guest change a store and returns the disk from before, and the log.
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
	script := fmt.Sprintf("modprobe virtio_blk; mkdir -p /run/disk && mount -t ext4 /dev/vda /run/disk && %s=/run/disk/nodeleases.db,/dev/vda %s", helperEnv, self)
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
	states := []string{""}
	model := store.New(filepath.Join(t.TempDir(), "model.db"), store.Options{Durable: true})
	for i := range changes {
		if err := change(model, i); err != nil {
			t.Fatal(err)
		}
		states = append(states, contents(t, model))
	}
	before, entries := record(t)
	t.Logf("%d writes and flushes", len(entries))
	dropped, older := 0, 0
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
			said, got := open(t, disk)
			at := slices.Index(states, got)
			switch {
			case lies == 0 && said != nil:
				t.Errorf("after %d of %d entries the store was damaged: %v", behind, len(entries), said)
			case lies == 0 && got != states[noted] && (noted == changes || got != states[noted+1]):
				t.Errorf("after %d of %d entries: %s, want %s or the change under way", behind, len(entries), got, states[noted])
			case lies > 0 && at < 0 && said == nil:
				t.Errorf("after %d of %d entries it holds %s, which never was, and says nothing", behind, len(entries), got)
			case said != nil:
				dropped++
			case lies > 0 && at < noted:
				older++
			}
		})
	}
	t.Logf("%d cuts; of the disks that lied %d gave a store that said what it dropped, %d an older one", cuts, dropped, older)
}

// open lets the file system recover, takes the store out of it and opens it.
func open(t *testing.T, disk []byte) (said error, got string) {
	t.Helper()
	dir := t.TempDir()
	image, out := filepath.Join(dir, "disk"), filepath.Join(dir, "out")
	if err := errors.Join(os.WriteFile(image, disk[:fsSize], 0o600), os.Mkdir(out, 0o700)); err != nil {
		t.Fatal(err)
	}
	run(t, "/usr/sbin/e2fsck", "-fy", image)
	run(t, "/usr/sbin/debugfs", "-R", "rdump / "+out, image)
	s := store.New(filepath.Join(out, "nodeleases.db"), store.Options{Durable: true, Damaged: func(err error) { said = errors.Join(said, err) }})
	got = contents(t, s)
	if _, _, err := s.Release(store.Key{ContainerID: "nobody", IfName: "eth0"}, 0); err != nil {
		t.Errorf("use the store: %v", err)
	}
	return said, got
}
