// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/patchbay-net/patchbay/"

// pkg is what `go list -deps -json` says of a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

// name is the package's path inside the module, empty for other modules' packages.
func (p pkg) name() string {
	name, ok := strings.CutPrefix(p.ImportPath, module)
	if !ok {
		return ""
	}
	return name
}

// rule limits what packages import.
type rule struct {
	// who it binds, as prefixes of package names; "" is every package.
	who []string
	// except are packages below who that it doesn't bind.
	except []string
	// only lists the imports that are allowed beside the standard library; nil allows all.
	only []string
	// never lists the imports that are forbidden, transitive ones too when deep.
	never []string
	deep  bool
	why   string
}

const clientGo, ebpf, prometheus, grpc = "k8s.io/client-go", "github.com/cilium/ebpf", "github.com/prometheus", "google.golang.org/grpc"

var pure = []string{"pkg/service", "pkg/policy", "pkg/maglev", "pkg/delta"}

func rules() []rule {
	return []rule{
		{who: pure, only: local(pure...), why: "pure: the standard library and each other"},
		{who: []string{"ipam"}, except: []string{"ipam/store"}, only: local("ipam"), why: "pure: the standard library and each other"},
		{who: []string{"ipam/store"}, only: append(local("ipam"), "go.etcd.io/bbolt", "golang.org/x/sys"), why: "the store knows bbolt and no more"},
		{who: []string{"pkg/api"}, only: append(local("pkg/api"), "k8s.io/api", "k8s.io/apimachinery"), why: "the objects need Kubernetes' types and no more"},
		{except: []string{"pkg/kube", "test"}, never: []string{clientGo}, why: "client-go is for pkg/kube alone"},
		{except: []string{"pkg/datapath", "test"}, never: []string{ebpf}, why: "BPF is for pkg/datapath alone"},
		{who: []string{"cmd/patchbay", "plugins", "pkg/agentapi", "pkg/netns", "pkg/netdev"}, deep: true,
			never: []string{"k8s.io", ebpf, prometheus, grpc, "net/http"}, why: "a CNI binary starts once per pod"},
		{who: []string{"plugins"}, only: append(local("plugins", "ipam", "pkg/netns", "pkg/netdev", "pkg/agentapi"),
			"github.com/containernetworking", "golang.org/x/sys"), why: "the CNI faces use ipam, netns, netdev and agentapi"},
		{except: []string{"cmd"}, never: local("cmd"), why: "nothing imports cmd"},
		{except: []string{"test"}, never: local("test"), why: "only what is under test/ imports it"},
	}
}

func local(names ...string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = module + n
	}
	return out
}

// under tells whether path is one of the prefixes or below it.
func under(path string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return path == p || strings.HasPrefix(path, p+"/")
	})
}

// breaches returns the imports of p that break the rule.
func (r rule) breaches(p pkg, standard map[string]bool) []string {
	if len(r.who) > 0 && !under(p.name(), r.who) || under(p.name(), r.except) {
		return nil
	}
	imports := p.Imports
	if r.deep {
		imports = p.Deps
	}
	var out []string
	for _, path := range imports {
		banned := under(path, r.never) || r.only != nil && !standard[path] && !under(path, r.only)
		if banned {
			out = append(out, path)
		}
	}
	return out
}

func TestImports(t *testing.T) {
	packages := list(t)
	standard := map[string]bool{}
	for _, p := range packages {
		standard[p.ImportPath] = p.Standard
	}
	for _, p := range packages {
		if p.name() == "" {
			continue
		}
		for _, r := range rules() {
			for _, path := range r.breaches(p, standard) {
				t.Errorf("%s imports %s: %s", p.name(), path, r.why)
			}
		}
	}
}

func TestRuleFindsBreaches(t *testing.T) {
	standard := map[string]bool{"net": true}
	for _, tt := range []struct {
		name string
		p    pkg
		want string
	}{
		{"pure importing a library", pkg{ImportPath: module + "pkg/maglev", Imports: []string{"net", "example.com/x"}}, "example.com/x"},
		{"pure importing its like", pkg{ImportPath: module + "pkg/service", Imports: []string{module + "pkg/maglev"}}, ""},
		{"CNI through others", pkg{ImportPath: module + "cmd/patchbay", Deps: []string{"net/http"}}, "net/http"},
		{"agent with client-go", pkg{ImportPath: module + "cmd/internal/agent", Imports: []string{clientGo + "/rest"}}, clientGo + "/rest"},
		{"kube with client-go", pkg{ImportPath: module + "pkg/kube", Imports: []string{clientGo + "/rest"}}, ""},
		{"product importing test", pkg{ImportPath: module + "pkg/source", Imports: []string{module + "test/netlab"}}, module + "test/netlab"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			for _, r := range rules() {
				got = append(got, r.breaches(tt.p, standard)...)
			}
			if strings.Join(got, " ") != tt.want {
				t.Errorf("breaches: got %v, want %q", got, tt.want)
			}
		})
	}
}

// list returns the module's packages and all they depend on.
func list(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, &stderr)
	}
	var packages []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}

// root is the module's directory.
var root = filepath.Join("..", "..")
