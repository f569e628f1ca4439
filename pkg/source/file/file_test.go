// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/patchbay-net/patchbay/pkg/api/v1alpha1"
	"github.com/patchbay-net/patchbay/pkg/source"
	"github.com/patchbay-net/patchbay/pkg/source/sourcetest"
)

func poolYAML(name, cidr string) string {
	return fmt.Sprintf("apiVersion: patchbay.net/v1alpha1\nkind: IPPool\nmetadata:\n  name: %s\nspec:\n  use: LoadBalancer\n  cidrs: [%s]\n", name, cidr)
}

func serviceYAML(name string, port int) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata:\n  name: %s\n  namespace: shop\nspec:\n  clusterIP: 10.96.0.10\n  ports:\n  - port: %d\n", name, port)
}

func poolKey(name string) source.Key { return source.Key{Name: name} }

// record starts a run for pools and Services and waits until it is synced.
func (b *backend) record(t testing.TB) (*sourcetest.Recorder, int) {
	t.Helper()
	kinds := []source.Kind{source.KindIPPool, source.KindService}
	r := sourcetest.Record(t, b.source, kinds...)
	return r, r.WaitSynced(t, kinds...)
}

func TestNoFolder(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for what, open := range map[string]func(Options) error{
		"source": func(o Options) error { _, err := New(o); return err },
		"writer": func(o Options) error { _, err := NewWriter(o); return err },
	} {
		err := open(Options{Dir: plain, StatusDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
		if err == nil || !strings.Contains(err.Error(), plain) {
			t.Errorf("%s of %s: %v, want an error that names it", what, plain, err)
		}
	}
}

// TestFolderAway: a folder that isn't there at the start is waited for, and so
// much is said; nothing is taken for known or written meanwhile.
func TestFolderAway(t *testing.T) {
	share := t.TempDir()
	o := Options{Dir: filepath.Join(share, "objects"), StatusDir: filepath.Join(share, "status"), Log: slog.New(slog.DiscardHandler), Rescan: 20 * time.Millisecond}
	src, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	writer, err := NewWriter(o)
	if err != nil {
		t.Fatal(err)
	}
	r := sourcetest.Record(t, src, source.KindIPPool)
	r.Wait(t, 0, "the folder is away", func(ev source.Event) bool {
		return ev.Op == source.Problem && strings.Contains(ev.Err.Error(), o.Dir)
	})
	pool := &v1alpha1.IPPool{}
	pool.Name = "a"
	if err := writer.Apply(t.Context(), pool); err == nil {
		t.Error("written though the folder is away")
	}
	if left, err := os.ReadDir(share); err != nil || len(left) > 0 {
		t.Errorf("made in the place of what is away: %v, %v", left, err)
	}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "a.yaml"), []byte(poolYAML("a", "10.0.1.0/24")), 0o644); err != nil {
		t.Fatal(err)
	}
	r.WaitSynced(t, source.KindIPPool)
	pool.Name, pool.Spec.Use, pool.Spec.CIDRs = "b", v1alpha1.UseNode, []string{"10.0.2.0/24"}
	if err := writer.Apply(t.Context(), pool); err != nil {
		t.Error(err)
	}
}

func TestFilesAndDocuments(t *testing.T) {
	b := newBackend(t)
	b.write(t, "a.yaml", "# pools\n---\n"+poolYAML("a1", "10.0.1.0/24")+"---\n# nothing\n---\n"+poolYAML("a2", "10.0.2.0/24"))
	b.write(t, "b.yml", strings.ReplaceAll(poolYAML("b1", "10.0.3.0/24")+"---\n"+serviceYAML("web", 80), "\n", "\r\n"))
	b.write(t, "list.yaml", `apiVersion: v1
kind: List
items:
- {apiVersion: patchbay.net/v1alpha1, kind: IPPool, metadata: {name: l1}, spec: {use: Node, cidrs: [10.0.4.0/24]}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: ignored}}
--- {apiVersion: v1, kind: ServiceList, items: [{metadata: {name: l2, namespace: shop}, spec: {ports: [{port: 1}]}}]}
`)
	b.write(t, "others.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\napiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: x}\n")
	b.write(t, ".hidden.yaml", poolYAML("hidden", "10.0.5.0/24"))
	b.write(t, "notes.txt", "not: yaml: at all")
	b.write(t, "empty.yaml", "")
	if err := os.Mkdir(filepath.Join(b.opts.Dir, "folder.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	r, _ := b.record(t)
	want := `upsert IPPool a1
upsert IPPool a2
upsert IPPool b1
upsert IPPool l1
upsert Service shop/l2
upsert Service shop/web
synced IPPool ` + `
synced Service ` + `
`
	if diff := cmp.Diff(want, sourcetest.Steps(r.Events())); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestProblemsNameTheirPlace(t *testing.T) {
	good := poolYAML("good", "10.0.0.0/24")
	for _, tt := range []struct {
		name, text string
		want       []string
		key        source.Key
	}{
		{"not YAML", good + "---\n{\n", []string{"document 2 (line 8)", "yaml"}, source.Key{}},
		{"cut in half", good + "---\n" + poolYAML("cut", "10.0.1.0/24")[:110], []string{"document 2"}, poolKey("cut")},
		{"key twice", poolYAML("twice", "10.0.1.0/24") + "  use: Node\n", []string{"document 1", "use"}, poolKey("twice")},
		{"unknown field", poolYAML("typo", "10.0.1.0/24") + "  prioritty: 3\n", []string{"IPPool typo", "prioritty"}, poolKey("typo")},
		{"wrong value", poolYAML("host", "10.0.1.1/24"), []string{"IPPool host", "spec.cidrs[0]", "10.0.1.0/24"}, poolKey("host")},
		{"wrong type", poolYAML("type", "10.0.1.0/24") + "  priority: high\n", []string{"IPPool type", "priority"}, poolKey("type")},
		{"no name", strings.Replace(poolYAML("x", "10.0.1.0/24"), "name: x", "labels: {}", 1), []string{"IPPool", "metadata.name"}, source.Key{}},
		{"bad name", poolYAML("Big_Pool", "10.0.1.0/24"), []string{"IPPool Big_Pool", "RFC 1123"}, poolKey("Big_Pool")},
		{"no kind", "metadata: {name: x}\n", []string{"apiVersion and kind"}, source.Key{}},
		{"a scalar", "hello\n", []string{"document 1"}, source.Key{}},
		{"unknown kind of ours", "apiVersion: patchbay.net/v1alpha1\nkind: IPPol\nmetadata: {name: x}\n", []string{"IPPol"}, source.Key{}},
		{"another version", "apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: x}\n", []string{"discovery.k8s.io/v1beta1", "discovery.k8s.io/v1"}, source.Key{}},
		{"Service without ports", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1}\n", []string{"Service default/web", "spec.ports"}, source.Key{Namespace: "default", Name: "web"}},
		{"Service port", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{port: 70000}]}\n", []string{"spec.ports[0].port", "70000"}, source.Key{Namespace: "default", Name: "web"}},
		{"Service port twice", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {ports: [{name: a, port: 1}, {name: b, port: 1}]}\n", []string{"spec.ports[1]", "twice"}, source.Key{Namespace: "default", Name: "web"}},
		{"Service address", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0, ports: [{port: 1}]}\n", []string{"spec.clusterIPs[0]"}, source.Key{Namespace: "default", Name: "web"}},
		{"item of a list", "apiVersion: patchbay.net/v1alpha1\nkind: IPPoolList\nitems: [{metadata: {name: x}}]\n", []string{"document 1", "item 1", "IPPool x"}, poolKey("x")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBackend(t)
			b.write(t, "bad.yaml", tt.text)
			b.write(t, "rest.yaml", poolYAML("rest", "10.9.0.0/24"))
			r, _ := b.record(t)
			r.WaitFor(t, 0, source.Upsert, source.KindIPPool, poolKey("rest"))
			var problems []source.Event
			for _, ev := range r.Events() {
				if ev.Op == source.Problem {
					problems = append(problems, ev)
				}
			}
			if len(problems) != 1 {
				t.Fatalf("%d problems, want 1; events:\n%s", len(problems), sourcetest.Steps(r.Events()))
			}
			got := problems[0]
			for _, want := range append(tt.want, filepath.Join(b.opts.Dir, "bad.yaml")) {
				if !strings.Contains(got.Err.Error(), want) {
					t.Errorf("problem %q doesn't say %q", got.Err, want)
				}
			}
			if got.Key != tt.key {
				t.Errorf("problem's key = %q, want %q", got.Key, tt.key)
			}
		})
	}
}

// TestCutAnywhere cuts a file at each of its bytes: what was good stays or is
// read anew, nothing is taken for deleted but what the cut left no trace of.
func TestCutAnywhere(t *testing.T) {
	first, second := serviceYAML("web", 80), serviceYAML("db", 5432)
	whole := first + "---\n" + second
	marker := len(first) + len("---\n")
	for cut := range len(whole) {
		before := &content{docs: parse("x.yaml", []byte(whole), nil, decodeObject)}
		after := &content{docs: parse("x.yaml", []byte(whole[:cut]), nil, decodeObject)}
		after.keep(before)
		have := map[string]int32{}
		for _, doc := range after.good() {
			have[doc.ref.key.Name] = doc.object.(*corev1.Service).Spec.Ports[0].Port
		}
		if cut > marker && have["web"] != 80 {
			t.Fatalf("cut at %d: web is %v; in force: %v", cut, have["web"], have)
		}
		if cut > marker && cut < len(whole)-len("5432\n") && have["db"] != 5432 {
			t.Fatalf("cut at %d, after\n%s\ndb is %v, want the last good", cut, whole[marker:cut], have["db"])
		}
	}
}

func TestCutFileKeepsItsObjects(t *testing.T) {
	b := newBackend(t)
	text := poolYAML("first", "10.0.1.0/24") + "---\n" + poolYAML("second", "10.0.2.0/24") + "---\n" + poolYAML("third", "10.0.3.0/24")
	b.write(t, "pools.yaml", text)
	r, from := b.record(t)
	changed := strings.Replace(text, "10.0.1.0/24", "10.0.9.0/24", 1)
	b.write(t, "pools.yaml", changed[:len(text)/2])
	_, from = r.Wait(t, from, "the problem", func(ev source.Event) bool {
		return ev.Op == source.Problem && strings.Contains(ev.Err.Error(), "pools.yaml: document 2")
	})
	b.write(t, "other.yaml", poolYAML("other", "10.1.0.0/24"))
	_, from = r.WaitFor(t, from, source.Upsert, source.KindIPPool, poolKey("other"))
	r.WaitFor(t, 0, source.Upsert, source.KindIPPool, poolKey("first")) // its new value: the rest goes on
	b.write(t, "pools.yaml", strings.Replace(changed, "10.0.3.0/24", "10.0.8.0/24", 1))
	r.WaitFor(t, from, source.Upsert, source.KindIPPool, poolKey("third"))
	for _, ev := range r.Events() {
		if ev.Op == source.Delete && ev.Key.Name == "second" {
			t.Errorf("the object that was cut is deleted; events:\n%s", sourcetest.Steps(r.Events()))
		}
	}
}

func TestNamelessProblemKeepsAllOfTheFile(t *testing.T) {
	b := newBackend(t)
	b.write(t, "pools.yaml", poolYAML("first", "10.0.1.0/24")+"---\n"+poolYAML("second", "10.0.2.0/24"))
	r, from := b.record(t)
	b.write(t, "pools.yaml", "{{{ half a file")
	_, from = r.Wait(t, from, "the problem", func(ev source.Event) bool { return ev.Op == source.Problem })
	if err := os.Remove(filepath.Join(b.opts.Dir, "pools.yaml")); err != nil {
		t.Fatal(err)
	}
	r.WaitFor(t, from, source.Delete, source.KindIPPool, poolKey("first"))
	r.WaitFor(t, from, source.Delete, source.KindIPPool, poolKey("second"))
	for _, ev := range r.Events()[:from] {
		if ev.Op == source.Delete {
			t.Errorf("%s is deleted while the file can't be read", ev.Key)
		}
	}
}

func TestDefinedTwice(t *testing.T) {
	b := newBackend(t)
	b.write(t, "b.yaml", poolYAML("external", "10.0.2.0/24"))
	b.write(t, "a.yaml", poolYAML("external", "10.0.1.0/24"))
	r, from := b.record(t)
	ev, _ := r.WaitFor(t, 0, source.Upsert, source.KindIPPool, poolKey("external"))
	if got := ev.Object.(*v1alpha1.IPPool).Spec.CIDRs[0]; got != "10.0.1.0/24" {
		t.Errorf("in force is %s, want the first by file name", got)
	}
	ev, _ = r.WaitFor(t, 0, source.Problem, source.KindIPPool, poolKey("external"))
	for _, file := range []string{"a.yaml", "b.yaml"} {
		if !strings.Contains(ev.Err.Error(), file) {
			t.Errorf("problem %q doesn't name %s", ev.Err, file)
		}
	}
	if err := os.Remove(filepath.Join(b.opts.Dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	ev, _ = r.WaitFor(t, from, source.Upsert, source.KindIPPool, poolKey("external"))
	if got := ev.Object.(*v1alpha1.IPPool).Spec.CIDRs[0]; got != "10.0.2.0/24" {
		t.Errorf("in force is %s, want that of the file that is left", got)
	}
}

func TestWhatMayNotChange(t *testing.T) {
	b := newBackend(t)
	b.write(t, "p.yaml", poolYAML("p", "10.0.1.0/24"))
	r, from := b.record(t)
	b.write(t, "p.yaml", strings.Replace(poolYAML("p", "10.0.1.0/24"), "LoadBalancer", "Node", 1))
	ev, from := r.WaitFor(t, from, source.Problem, source.KindIPPool, poolKey("p"))
	if !strings.Contains(ev.Err.Error(), "spec.use") {
		t.Errorf("problem = %v", ev.Err)
	}
	b.write(t, "p.yaml", poolYAML("p", "10.0.2.0/24"))
	r.WaitFor(t, from, source.Upsert, source.KindIPPool, poolKey("p"))
}

// TestEditsTakeEffectSoon has ways in which editors and tools write a file.
func TestEditsTakeEffectSoon(t *testing.T) {
	for _, tt := range []struct {
		name  string
		write func(path, text string) error
	}{
		{"in place", func(path, text string) error { return os.WriteFile(path, []byte(text), 0o644) }},
		{"by rename", func(path, text string) error {
			if err := os.WriteFile(path+".tmp", []byte(text), 0o644); err != nil {
				return err
			}
			return os.Rename(path+".tmp", path)
		}},
		{"removed and made anew", func(path, text string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.WriteFile(path, []byte(text), 0o644)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBackend(t)
			path := filepath.Join(b.opts.Dir, "p.yaml")
			b.write(t, "p.yaml", poolYAML("p", "10.0.1.0/24"))
			r, from := b.record(t)
			begin := time.Now()
			if err := tt.write(path, poolYAML("p", "10.0.2.0/24")); err != nil {
				t.Fatal(err)
			}
			r.WaitFor(t, from, source.Upsert, source.KindIPPool, poolKey("p"))
			if took := time.Since(begin); took > time.Second {
				t.Errorf("took %v, want less than 1 s", took)
			}
			if got := sourcetest.Steps(r.Events()[from:]); strings.Contains(got, "delete") || strings.Contains(got, "problem") {
				t.Errorf("events on the way:\n%s", got)
			}
		})
	}
}

// TestSettling: what is wrong with a file, and that it is gone, is believed only
// when it has rested.
func TestSettling(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "p.yaml")
	f := &folder{dir: dir}
	begin := time.Now().Add(-time.Hour)
	write := func(text string, at time.Time) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	refresh := func(now time.Time, wantUnsettled bool, wantGood, wantBad int) {
		t.Helper()
		unsettled, err := f.refresh(now)
		if err != nil {
			t.Fatal(err)
		}
		good, bad := 0, 0
		for _, c := range f.files {
			good += len(c.good())
			for _, doc := range c.docs {
				if doc.err != nil {
					bad++
				}
			}
		}
		if unsettled != wantUnsettled || good != wantGood || bad != wantBad {
			t.Errorf("unsettled %v, %d good, %d bad; want %v, %d, %d", unsettled, good, bad, wantUnsettled, wantGood, wantBad)
		}
	}
	whole := poolYAML("p", "10.0.1.0/24")
	write(whole[:60], begin)
	refresh(begin.Add(settle/2), true, 0, 0) // may be in the writing
	write(whole, begin.Add(settle/2))
	refresh(begin.Add(settle), true, 1, 0) // good at once, and looked at again
	refresh(begin.Add(2*settle), false, 1, 0)
	write(whole[:60], begin.Add(3*settle))
	refresh(begin.Add(3*settle), true, 1, 0)
	refresh(begin.Add(4*settle), false, 1, 1) // wrong; the last good stays
	write(whole, begin.Add(5*settle))
	refresh(begin.Add(6*settle), false, 1, 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	refresh(begin.Add(7*settle), true, 1, 0) // may come back
	write(whole, begin.Add(7*settle))
	refresh(begin.Add(8*settle), false, 1, 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	refresh(begin.Add(9*settle), true, 1, 0)
	refresh(begin.Add(10*settle), false, 0, 0)
}

// TestFolderVanishes: a folder that is unmounted must not take all Services
// with it.
func TestFolderVanishes(t *testing.T) {
	b := newBackend(t)
	b.opts.Rescan = 50 * time.Millisecond
	b.source = &Source{b.opts}
	b.write(t, "p.yaml", poolYAML("p", "10.0.1.0/24"))
	r, from := b.record(t)
	away := b.opts.Dir + "-away"
	if err := os.Rename(b.opts.Dir, away); err != nil {
		t.Fatal(err)
	}
	_, from = r.Wait(t, from, "the problem", func(ev source.Event) bool {
		return ev.Op == source.Problem && strings.Contains(ev.Err.Error(), b.opts.Dir)
	})
	if err := os.Rename(away, b.opts.Dir); err != nil {
		t.Fatal(err)
	}
	b.write(t, "q.yaml", poolYAML("q", "10.0.2.0/24"))
	_, after := r.WaitFor(t, from, source.Upsert, source.KindIPPool, poolKey("q"))
	if got := sourcetest.Steps(r.Events()[from:after]); strings.Contains(got, "delete") {
		t.Errorf("events after the folder came back:\n%s", got)
	}
}

// TestMountedConfigMap has the folder as the kubelet mounts it: files are links
// through ..data, which is replaced whole.
func TestMountedConfigMap(t *testing.T) {
	b := newBackend(t)
	publish := func(version, cidr string) {
		dir := filepath.Join(b.opts.Dir, "..v"+version)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "p.yaml"), []byte(poolYAML("p", cidr)), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..v"+version, filepath.Join(b.opts.Dir, "..new")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(b.opts.Dir, "..new"), filepath.Join(b.opts.Dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("1", "10.0.1.0/24")
	if err := os.Symlink("..data/p.yaml", filepath.Join(b.opts.Dir, "p.yaml")); err != nil {
		t.Fatal(err)
	}
	r, from := b.record(t)
	publish("2", "10.0.2.0/24")
	ev, _ := r.WaitFor(t, from, source.Upsert, source.KindIPPool, poolKey("p"))
	if got := ev.Object.(*v1alpha1.IPPool).Spec.CIDRs[0]; got != "10.0.2.0/24" {
		t.Errorf("cidr = %s", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(poolYAML("p", "10.0.0.0/24") + "---\n" + serviceYAML("web", 80)))
	f.Add([]byte("apiVersion: v1\nkind: List\nitems: [{}, 3, {kind: List, apiVersion: v1, items: [[]]}]\n"))
	f.Add([]byte("--- {\n---\r\n... \n%YAML 1.1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, doc := range parse("x.yaml", data, nil, decodeObject) {
			if (doc.object == nil) == (doc.err == nil) {
				t.Errorf("%s: object %v and error %v", doc.origin, doc.object, doc.err)
			}
			if doc.err == nil && (doc.ref == ref{} || doc.ref.key != source.KeyOf(doc.object)) {
				t.Errorf("%s: ref %v of object %v", doc.origin, doc.ref, doc.object)
			}
		}
	})
}

// BenchmarkParse is what 1,000 Services in one file cost at each change of it.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		text.WriteString(serviceYAML(fmt.Sprintf("web-%d", i), 80) + "---\n")
	}
	for b.Loop() {
		parse("x.yaml", []byte(text.String()), nil, decodeObject)
	}
}

// TestParseKinds leaves out what is plainly of other kinds, but not the end of a
// file, which may be cut short.
func TestParseKinds(t *testing.T) {
	doc := func(kind, name string) string {
		return "---\napiVersion: v1\nkind: " + kind + "\nmetadata: {name: " + name + "}\n"
	}
	text := doc("Service", "a") + doc("Node", "b") + "---\n{apiVersion: v1, kind: Node, metadata: {name: c}}\n" + doc("Node", "d")
	var got []string
	for _, d := range parse("x.yaml", []byte(text), []source.Kind{source.KindService}, decodeObject) {
		got = append(got, d.ref.String())
	}
	want := []string{"Service default/a", "Node c", "Node d"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("documents (-want +got):\n%s", diff)
	}
}
