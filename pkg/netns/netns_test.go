// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/patchbay-net/patchbay/test/netlab"
)

func TestDo(t *testing.T) {
	netlab.Require(t)
	lab := netlab.New(t)
	ns, err := Open(lab.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if same, err := ns.IsOwn(); same || err != nil {
		t.Errorf("IsOwn outside = %t, %v", same, err)
	}
	want := errors.New("from inside")
	err = ns.Do(func() error {
		if same, err := ns.IsOwn(); !same || err != nil {
			t.Errorf("IsOwn inside = %t, %v", same, err)
		}
		return want
	})
	if !errors.Is(err, want) {
		t.Errorf("Do = %v, want f's error", err)
	}
	if same, _ := ns.IsOwn(); same {
		t.Error("the thread did not come back")
	}
}

func TestOpen(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]error{
		file:                 ErrNotNamespace,
		"/proc/self/ns/mnt":  ErrNotNamespace,
		"/proc/self/ns/none": os.ErrNotExist,
	} {
		if _, err := Open(path); !errors.Is(err, want) {
			t.Errorf("Open(%s): %v, want %v", path, err, want)
		}
	}
}
