// SPDX-License-Identifier: Apache-2.0

package artefacts

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/patchbay-net/patchbay/test/cluster/internal/oci"
)

// Packages are the Debian packages whose files the images and the nodes use.
var Packages = []string{
	"bind9-dnsutils", "busybox-static", "conntrack", "curl", "dash", "hostname", "iperf", "iproute2",
	"iputils-ping", "netcat-openbsd", "nftables", "redis-server", "runc", "socat", "wget",
}

const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// CoreDNSImage is what deploy manifests of the cluster's DNS name.
const CoreDNSImage = "registry.k8s.io/coredns/coredns:v1.15.0"

// images is the archive of all images but Patchbay's own. Those of upstream's
// tests carry the names that the tests ask for.
func images(set *Set) artefact {
	return artefact{
		name:   "images",
		inputs: []string{"go.mod", "go.sum", "pause", "coredns", "internal/oci", "internal/artefacts/images.go"},
		recipe: kubernetesVersion + packageVersions(),
		build: func(ctx context.Context, b *Builder, dir string) error {
			out, err := b.goOutput(ctx, "list", "-f", "{{.Dir}}", "k8s.io/kubernetes/test/images/agnhost")
			if err != nil {
				return err
			}
			list, err := imageList(set, strings.TrimSpace(out))
			if err != nil {
				return err
			}
			var archive bytes.Buffer
			if err := oci.Write(&archive, runtime.GOARCH, list...); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(dir, "images.tar"), archive.Bytes(), 0o644)
		},
	}
}

// packageVersions tells which files of Debian's go into the images.
func packageVersions() string {
	out, err := exec.Command("dpkg-query", append([]string{"-W"}, Packages...)...).Output()
	if err != nil {
		return "" // Program names what is missing
	}
	return string(out)
}

func imageList(set *Set, agnhost string) ([]oci.Image, error) {
	programs, err := set.Binaries()
	if err != nil {
		return nil, err
	}
	var failed error
	layer := func(fill func(*oci.Tree) error) []*oci.Layer {
		tree := oci.NewTree()
		err := fill(tree)
		if err != nil {
			failed = err
			return nil
		}
		l, err := tree.FastLayer()
		if err != nil {
			failed = err
		}
		return []*oci.Layer{l}
	}
	single := func(name string) []*oci.Layer {
		return layer(func(t *oci.Tree) error { return t.File(name, programs[name]) })
	}
	userland := layer(addUserland)
	tools := slices.Concat(userland, layer(func(t *oci.Tree) error { return addAgnhost(t, programs, agnhost) }))
	redis := layer(func(t *oci.Tree) error {
		t.Dir("data", 0o777)
		return t.Program("usr/bin/redis-server", "redis-server")
	})
	filters := slices.Concat(userland, layer(func(t *oci.Tree) error { return t.Program("usr/sbin/conntrack", "conntrack") }))
	const e2e = "registry.k8s.io/e2e-test-images/"
	list := []oci.Image{
		{Name: "registry.k8s.io/pause:3.10.2", Layers: single("pause"), Config: oci.Config{User: "65535:65535", Entrypoint: []string{"/pause"}}},
		{Name: CoreDNSImage, Layers: single("coredns"), Config: oci.Config{Entrypoint: []string{"/coredns"}}},
		{Name: e2e + "agnhost:2.66.1", Layers: tools, Config: oci.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{searchPath}}},
		{Name: e2e + "glibc-dns-testing:2.1.1", Layers: tools, Config: oci.Config{Entrypoint: []string{"/bin/sh"}, Env: []string{searchPath}}},
		{Name: e2e + "busybox:1.37.0-2", Layers: userland, Config: oci.Config{Cmd: []string{"sh"}, Env: []string{searchPath}}},
		{Name: e2e + "nginx:1.27.0-2", Layers: tools, Config: oci.Config{Entrypoint: []string{"/agnhost", "netexec", "--http-port=80", "--udp-port=-1"}}},
		{Name: e2e + "regression-issue-74839:1.5", Layers: single("regression-issue-74839"), Config: oci.Config{Entrypoint: []string{"/regression-issue-74839"}}},
		{Name: "registry.k8s.io/build-image/distroless-iptables:v0.9.7", Layers: filters, Config: oci.Config{Env: []string{searchPath}}},
		{Name: "patchbay.test/redis:debian", Layers: redis, Config: oci.Config{User: "65534:65534", WorkingDir: "/data", Entrypoint: []string{"/usr/bin/redis-server"}}},
	}
	return list, failed
}

// addUserland adds a small Debian: busybox, and the real program where its
// applet differs. The shell is dash, as busybox' prefers its own applets.
func addUserland(t *oci.Tree) error {
	for _, dir := range []string{"tmp", "var/tmp"} {
		t.Dir(dir, 0o1777)
	}
	for _, dir := range []string{"proc", "sys", "dev", "run", "root", "home"} {
		t.Dir(dir, 0o755)
	}
	t.Data("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	t.Data("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	t.Data("etc/wgetrc", 0o644, []byte("tries = 1\n")) // as busybox' own, which upstream's image has
	t.Data("etc/nsswitch.conf", 0o644, []byte("hosts: files dns\n"))
	if err := t.Program("bin/busybox", "busybox"); err != nil {
		return err
	}
	applets, err := exec.Command("busybox", "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox: %w", err)
	}
	real := map[string]string{"sh": "dash", "nc": "nc.openbsd"}
	for _, name := range strings.Fields("bash curl dig getent hostname ip nslookup nsenter ping socat ss wget") {
		real[name] = name
	}
	for _, applet := range strings.Fields(string(applets)) {
		if real[applet] == "" && applet != "busybox" {
			t.Symlink("bin/"+applet, "busybox")
		}
	}
	for name, program := range real {
		if err := t.Program("bin/"+name, program); err != nil {
			return err
		}
	}
	for _, library := range []string{"libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"} {
		found, err := filepath.Glob("/lib/*/" + library)
		if err != nil || len(found) == 0 {
			continue // within libc in newer releases
		}
		if err := t.File(found[0][1:], found[0]); err != nil {
			return err
		}
	}
	return nil
}

// addAgnhost adds the tests' own server, the certificate that it serves, and
// the other servers that some tests run, where upstream's image has them.
func addAgnhost(t *oci.Tree, programs map[string]string, source string) error {
	files := map[string]string{
		"agnhost":       programs["agnhost"],
		"coredns":       programs["coredns"],
		"localhost.crt": filepath.Join(source, "porter/localhost.crt"),
		"localhost.key": filepath.Join(source, "porter/localhost.key"),
	}
	for name, path := range files {
		if err := t.File(name, path); err != nil {
			return err
		}
	}
	if err := t.Program("usr/bin/iperf", "iperf"); err != nil {
		return err
	}
	t.Symlink("agnhost-2", "agnhost")
	t.Dir("uploads", 0o777)
	return nil
}
