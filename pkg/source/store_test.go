// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func service(name, version string, ports ...int32) *corev1.Service {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name), ResourceVersion: version}}
	for _, p := range ports {
		svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{Port: p, Protocol: corev1.ProtocolTCP})
	}
	return svc
}

func upsert(obj *corev1.Service) Event {
	return Event{Op: Upsert, Kind: KindService, Key: KeyOf(obj), Object: obj}
}

// steps writes events as "op kind key", the form that tests compare.
func steps(events []Event) []string {
	var out []string
	for _, ev := range events {
		out = append(out, ev.Op.String()+" "+string(ev.Kind)+" "+ev.Key.String())
	}
	return out
}

func TestStoreChanges(t *testing.T) {
	remove := Event{Op: Delete, Kind: KindService, Key: Key{"shop", "web"}}
	synced := Event{Op: Synced, Kind: KindService}
	for _, tt := range []struct {
		name   string
		events []Event
		want   []string
	}{
		{"new", []Event{upsert(service("web", "1"))}, []string{"upsert Service shop/web"}},
		{"same version", []Event{upsert(service("web", "1")), upsert(service("web", "1"))}, []string{"upsert Service shop/web"}},
		{"new version, same content but for it", []Event{upsert(service("web", "1")), upsert(service("web", "2"))},
			[]string{"upsert Service shop/web", "upsert Service shop/web"}},
		{"no version, same content", []Event{upsert(service("web", "", 80)), upsert(service("web", "", 80))}, []string{"upsert Service shop/web"}},
		{"no version, other content", []Event{upsert(service("web", "", 80)), upsert(service("web", "", 81))},
			[]string{"upsert Service shop/web", "upsert Service shop/web"}},
		{"delete unknown", []Event{remove}, nil},
		{"delete known", []Event{upsert(service("web", "1")), remove, remove}, []string{"upsert Service shop/web", "delete Service shop/web"}},
		{"synced once", []Event{synced, synced}, []string{"synced Service "}},
		{"problem", []Event{{Op: Problem, Kind: KindService, Err: errors.New("half a file")}}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := NewStore()
			var got []Event
			for _, ev := range tt.events {
				got = append(got, s.Changes(ev)...)
			}
			if diff := cmp.Diff(tt.want, steps(got)); diff != "" {
				t.Errorf("changes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStoreRecreatedObject(t *testing.T) {
	s := NewStore()
	s.Apply(upsert(service("web", "7")))
	again := service("web", "7", 80)
	again.UID = "another"
	if !s.Apply(upsert(again)) {
		t.Error("an object with another UID counts as unchanged")
	}
}

func TestStoreDeleteNamesLastObject(t *testing.T) {
	s := NewStore()
	web := service("web", "1", 80)
	s.Apply(upsert(web))
	got := s.Changes(Event{Op: Delete, Kind: KindService, Key: KeyOf(web)})
	if len(got) != 1 || got[0].Object != web {
		t.Errorf("changes = %v, want one delete with the last object", got)
	}
}

func TestStoreReading(t *testing.T) {
	s := NewStore()
	for _, name := range []string{"web", "db", "api"} {
		s.Apply(upsert(service(name, "1")))
	}
	var names []string
	for _, svc := range List[*corev1.Service](s, KindService) {
		names = append(names, svc.Name)
	}
	if diff := cmp.Diff([]string{"api", "db", "web"}, names); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	if _, ok := Get[*corev1.Service](s, KindService, Key{"shop", "db"}); !ok {
		t.Error("Get shop/db: not found")
	}
	if _, ok := Get[*corev1.Service](s, KindService, Key{"shop", "cache"}); ok {
		t.Error("Get shop/cache: found")
	}
	if _, ok := Get[*corev1.Pod](s, KindService, Key{"shop", "db"}); ok {
		t.Error("Get of the wrong type: found")
	}
	if s.Synced(KindService) {
		t.Error("synced before the source said so")
	}
}

// A loop may read and write the store it goes over.
func TestStoreUsedWithinAll(t *testing.T) {
	s := NewStore()
	s.Apply(upsert(service("web", "1")))
	for svc := range All[*corev1.Service](s, KindService) {
		s.Apply(upsert(service("web", "2")))
		if now, ok := Get[*corev1.Service](s, KindService, KeyOf(svc)); !ok || now.ResourceVersion != "2" {
			t.Errorf("within the loop: %v, %v", now, ok)
		}
	}
}

func TestSnapshotRestoresAndReconciles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	web, old := service("web", "5", 80, 443), service("old", "3")
	web.CreationTimestamp = metav1.Unix(time.Now().Unix(), 0)
	web.Labels = map[string]string{"app": "web"}
	before := NewStore()
	before.Apply(upsert(web))
	before.Apply(upsert(old))
	before.Apply(Event{Op: Synced, Kind: KindService})
	if err := before.Save(path); err != nil {
		t.Fatal(err)
	}

	after, err := LoadStore(path)
	if err != nil {
		t.Fatal(err)
	}
	if after.Synced(KindService) {
		t.Error("a restored kind counts as synced")
	}
	got, _ := Get[*corev1.Service](after, KindService, KeyOf(web))
	if diff := cmp.Diff(web, got); diff != "" {
		t.Errorf("restored object (-want +got):\n%s", diff)
	}

	var changes []Event
	for _, ev := range []Event{upsert(service("web", "5", 80, 443)), {Op: Synced, Kind: KindService}, {Op: Synced, Kind: KindService}} {
		changes = append(changes, after.Changes(ev)...)
	}
	want := []string{"delete Service shop/old", "synced Service "}
	if diff := cmp.Diff(want, steps(changes)); diff != "" {
		t.Errorf("changes after the restart (-want +got):\n%s", diff)
	}
}

func TestSnapshotOfWhatCannotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "snapshot")
	before := NewStore()
	before.Apply(upsert(service("web", "5")))
	if err := before.Save(path); err != nil {
		t.Fatal(err)
	}
	after, err := LoadStore(path)
	if err != nil {
		t.Fatal(err)
	}
	after.Apply(Event{Op: Problem, Kind: KindService, Key: Key{"shop", "web"}, Err: errors.New("half a file")})
	after.Apply(Event{Op: Synced, Kind: KindService})
	if after.Len(KindService) != 1 {
		t.Error("the last good version of an object that can't be read now is gone")
	}
	if !after.Apply(Event{Op: Delete, Kind: KindService, Key: Key{"shop", "web"}}) {
		t.Error("it can't be deleted afterwards")
	}
}

func TestLoadStoreWithoutSnapshot(t *testing.T) {
	s, err := LoadStore(filepath.Join(t.TempDir(), "none"))
	if err != nil || s == nil {
		t.Fatalf("LoadStore = %v, %v; want an empty store", s, err)
	}
}

func TestLoadStoreDamaged(t *testing.T) {
	dir := t.TempDir()
	s := NewStore()
	s.Apply(upsert(service("web", "1", 80)))
	good := filepath.Join(dir, "good")
	if err := s.Save(good); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		data []byte
	}{
		{"empty", nil},
		{"cut in half", data[:len(data)/2]},
		{"last byte missing", data[:len(data)-1]},
		{"one bit turned", func() []byte { d := append([]byte{}, data...); d[len(d)/2] ^= 1; return d }()},
		{"another version", append([]byte("patchbay snapshot v9\n"), data[len(snapshotMagic):]...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "snapshot")
			if err := os.WriteFile(path, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			s, err := LoadStore(path)
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("error = %v, want ErrDamaged", err)
			}
			if s == nil || s.Len(KindService) != 0 {
				t.Errorf("store = %v, want an empty one", s)
			}
		})
	}
}

func TestSaveLeavesNoOtherFiles(t *testing.T) {
	dir := t.TempDir()
	s := NewStore()
	for range 3 {
		if err := s.Save(filepath.Join(dir, "snapshot")); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("folder has %v (%v), want the snapshot alone", entries, err)
	}
	if err := s.Save(filepath.Join(dir, "gone", "snapshot")); err == nil {
		t.Error("saving to a folder that isn't there succeeds")
	}
}

func FuzzDecodeSnapshot(f *testing.F) {
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := NewStore()
		for len(data) > 0 {
			field, rest, err := cutField(data)
			if err != nil {
				return
			}
			if err := s.restore(KindService, encodingProto, field); err != nil && !errors.Is(err, ErrDamaged) {
				t.Errorf("error %v isn't ErrDamaged", err)
			}
			data = rest
		}
	})
}

// BenchmarkSnapshot is what a node pays at 10,000 Services to save and to start.
func BenchmarkSnapshot(b *testing.B) {
	s := NewStore()
	for i := range 10000 {
		s.Apply(upsert(service("web-"+string(rune('a'+i%26))+time.Duration(i).String(), "1", 80, 443)))
	}
	path := filepath.Join(b.TempDir(), "snapshot")
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			if err := s.Save(path); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			if _, err := LoadStore(path); err != nil {
				b.Fatal(err)
			}
		}
	})
}
