// SPDX-License-Identifier: Apache-2.0

package datapath_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/patchbay-net/patchbay/pkg/datapath"
	"github.com/patchbay-net/patchbay/pkg/service"
	"github.com/patchbay-net/patchbay/test/netlab"
)

// pinned are the ids of what is pinned, by path below pinDir.
type pinned struct {
	maps, links map[string]uint32
	programs    map[string]ebpf.ProgramID // of the links
}

func readPins(t *testing.T) pinned {
	t.Helper()
	p := pinned{map[string]uint32{}, map[string]uint32{}, map[string]ebpf.ProgramID{}}
	err := filepath.WalkDir(pinDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if filepath.Base(filepath.Dir(path)) == "maps" {
			m, err := ebpf.LoadPinnedMap(path, nil)
			if err != nil {
				return err
			}
			defer m.Close()
			info, err := m.Info()
			if err != nil {
				return err
			}
			id, _ := info.ID()
			p.maps[entry.Name()] = uint32(id)
			return nil
		}
		l, err := link.LoadPinnedLink(path, nil)
		if err != nil {
			return err
		}
		defer l.Close()
		info, err := l.Info()
		if err != nil {
			return err
		}
		p.links[entry.Name()] = uint32(info.ID)
		p.programs[entry.Name()] = info.Program
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestReopen restarts in mid-traffic: nothing is made anew but the programs,
// and no connect fails meanwhile.
func TestReopen(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := open(t)
		attachSockets(t, d)
		serveTCP(t, "127.0.0.2:8080")
		setServices(t, d, frontend(service.TCP, "10.96.0.1:80", "127.0.0.2:8080"))
		before := readPins(t)
		if len(before.links) != 8 {
			t.Fatalf("want 8 links pinned, got %v", before.links)
		}
		ctx, stop := context.WithCancel(t.Context())
		var asked atomic.Int64
		done := make(chan error, 1)
		go func() {
			for ctx.Err() == nil {
				if _, err := askTCP("10.96.0.1:80"); err != nil {
					done <- err
					return
				}
				asked.Add(1)
			}
			done <- nil
		}()
		for range 5 {
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			d = open(t)
			attachSockets(t, d)
			setServices(t, d, frontend(service.TCP, "10.96.0.1:80", "127.0.0.2:8080"))
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("connect during restarts: %v", err)
		}
		if asked.Load() == 0 {
			t.Error("want connects during the restarts, got none")
		}
		after := readPins(t)
		if diff := cmp.Diff(before.maps, after.maps); diff != "" {
			t.Errorf("map ids (-before +after):\n%s", diff)
		}
		if diff := cmp.Diff(before.links, after.links); diff != "" {
			t.Errorf("link ids (-before +after):\n%s", diff)
		}
		for name, id := range after.programs {
			if id == before.programs[name] {
				t.Errorf("link %s: want a new program, still has %d", name, id)
			}
		}
	})
}

func TestRemove(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d := open(t)
		attachSockets(t, d)
		pins := readPins(t)
		if err := datapath.Remove(pinDir); !errors.Is(err, datapath.ErrInUse) {
			t.Errorf("remove while open: want ErrInUse, got %v", err)
		}
		if _, err := datapath.Open(datapath.Options{PinDir: pinDir}); !errors.Is(err, datapath.ErrInUse) {
			t.Errorf("open twice: want ErrInUse, got %v", err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if err := datapath.Remove(pinDir); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(pinDir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("pin directory: want gone, got %v", err)
		}
		// The kernel frees by RCU, a moment later.
		for id := range maps.Values(pins.programs) {
			netlab.WaitFor(t, 5*time.Second, "program to go", func() error {
				p, err := ebpf.NewProgramFromID(id)
				if err == nil {
					p.Close()
					return errors.New("program is still there")
				}
				return nil
			})
		}
		if err := datapath.Remove(pinDir); err != nil {
			t.Errorf("remove again: %v", err)
		}
	})
}

func TestOpenRefusesOtherSchema(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		if err := os.MkdirAll(filepath.Join(pinDir, "v99", "maps"), 0o700); err != nil {
			t.Fatal(err)
		}
		_, err := datapath.Open(datapath.Options{PinDir: pinDir})
		if !errors.Is(err, datapath.ErrSchema) {
			t.Fatalf("want ErrSchema, got %v", err)
		}
		t.Log(err)
	})
}

func TestOpenRefusesOtherLayout(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		open(t).Close()
		pin := filepath.Join(pinDir, "v1", "maps", "routes")
		if err := os.Remove(pin); err != nil {
			t.Fatal(err)
		}
		m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if err := m.Pin(pin); err != nil {
			t.Fatal(err)
		}
		_, err = datapath.Open(datapath.Options{PinDir: pinDir})
		if !errors.Is(err, datapath.ErrSchema) {
			t.Fatalf("want ErrSchema, got %v", err)
		}
		t.Log(err)
	})
}

func TestOpenKeepsPinnedSizes(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		d, err := datapath.Open(datapath.Options{PinDir: pinDir, Sizes: map[string]uint32{"frontends": 100}})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		open(t)
		m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, "v1", "maps", "frontends"), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		if m.MaxEntries() != 100 {
			t.Errorf("want the pinned size 100, got %d", m.MaxEntries())
		}
	})
}

func TestOpenAfterInterruptedStart(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		left := filepath.Join(pinDir, "v1-new", "maps")
		if err := os.MkdirAll(left, 0o700); err != nil {
			t.Fatal(err)
		}
		d := open(t)
		attachSockets(t, d)
		if _, err := os.Stat(filepath.Dir(left)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what the interrupted start left: want gone, got %v", err)
		}
	})
}

func TestOpenMountsBPFFS(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		mount := filepath.Join(t.TempDir(), "bpf")
		d, err := datapath.Open(datapath.Options{PinDir: filepath.Join(mount, "patchbay")})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		var stat unix.Statfs_t
		if err := unix.Statfs(mount, &stat); err != nil || stat.Type != unix.BPF_FS_MAGIC {
			t.Errorf("want bpffs on %s, got type %#x, %v", mount, stat.Type, err)
		}
		if err := unix.Unmount(mount, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
}

// TestMemory holds the kernel memory of all maps at their default sizes, empty.
func TestMemory(t *testing.T) {
	netlab.Isolate(t, func(t *testing.T) {
		open(t)
		var total uint64
		for name := range readPins(t).maps {
			m, err := ebpf.LoadPinnedMap(filepath.Join(pinDir, "v1", "maps", name), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			info, err := m.Info()
			if err != nil {
				t.Fatal(err)
			}
			bytes, _ := info.Memlock()
			t.Logf("%-15s %9d bytes", name, bytes)
			total += bytes
		}
		if total == 0 || total > 64<<20 {
			t.Errorf("want at most 64 MiB, got %d bytes", total)
		}
		t.Logf("total %d KiB", total>>10)
	})
}
