// SPDX-License-Identifier: Apache-2.0

package artefacts

import (
	"context"
	"strings"
)

const (
	kubernetesVersion = "v1.37.1"
	containerdVersion = "v2.4.2"
)

// kubeComponents are the names that the binary kube answers to.
var kubeComponents = []string{
	"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet",
}

// all lists the artefacts in the order in which they need each other; the
// images hold programs of set.
func all(set *Set) []artefact {
	return []artefact{
		containerd(),
		program("kube", []string{"go.mod", "go.sum", "kube"}, "./kube"),
		testImage("agnhost"),
		testImage("regression-issue-74839"),
		program("pause", []string{"go.mod", "go.sum", "pause"}, "./pause"),
		coredns(),
		plugins(),
		endToEnd(),
		images(set),
	}
}

// kubeFlags stamp the version, which clients and servers compare.
func kubeFlags() string {
	flags := "-s -w"
	major, minor, _ := strings.Cut(strings.TrimPrefix(kubernetesVersion, "v"), ".")
	minor, _, _ = strings.Cut(minor, ".")
	for _, pkg := range []string{"k8s.io/component-base/version", "k8s.io/client-go/pkg/version"} {
		for _, set := range []string{"gitVersion=" + kubernetesVersion, "gitMajor=" + major, "gitMinor=" + minor, "gitTreeState=clean"} {
			flags += " -X " + pkg + "." + set
		}
	}
	return flags
}

// program is one package of the Kubernetes module graph.
func program(name string, inputs []string, pkg string) artefact {
	return artefact{
		name: name, inputs: inputs, recipe: kubernetesVersion,
		build: func(ctx context.Context, b *Builder, dir string) error {
			return b.Go(ctx, ".", "build", "-trimpath", "-ldflags", kubeFlags(), "-o", dir+"/"+name, pkg)
		},
	}
}

// testImage is the program of one of upstream's test images.
func testImage(name string) artefact {
	return program(name, []string{"go.mod", "go.sum"}, "k8s.io/kubernetes/test/images/"+name)
}

// endToEnd is Kubernetes' own test binary and its parallel runner.
func endToEnd() artefact {
	return artefact{
		name: "e2e", inputs: []string{"go.mod", "go.sum"}, recipe: kubernetesVersion,
		build: func(ctx context.Context, b *Builder, dir string) error {
			err := b.Go(ctx, ".", "test", "-c", "-trimpath", "-ldflags", kubeFlags(), "-o", dir+"/e2e.test", "k8s.io/kubernetes/test/e2e")
			if err != nil {
				return err
			}
			return b.Go(ctx, ".", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/ginkgo", "github.com/onsi/ginkgo/v2/ginkgo")
		},
	}
}

// containerd has a module graph of its own.
func containerd() artefact {
	const module = "github.com/containerd/containerd/v2"
	return artefact{
		name: "containerd", inputs: []string{"containerd"}, recipe: containerdVersion,
		build: func(ctx context.Context, b *Builder, dir string) error {
			return b.Go(ctx, "containerd", "build", "-trimpath", "-tags", "no_btrfs no_zfs no_devmapper",
				"-ldflags", "-s -w -X "+module+"/version.Version="+containerdVersion, "-o", dir+"/",
				module+"/cmd/containerd", module+"/cmd/containerd-shim-runc-v2", module+"/cmd/ctr")
		},
	}
}

// plugins are the reference CNI plugins, beside which kube-proxy runs.
func plugins() artefact {
	const module = "github.com/containernetworking/plugins/plugins"
	return artefact{
		name: "plugins", inputs: []string{"plugins"},
		build: func(ctx context.Context, b *Builder, dir string) error {
			return b.Go(ctx, "plugins", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/",
				module+"/main/ptp", module+"/ipam/host-local", module+"/meta/portmap")
		},
	}
}

func coredns() artefact {
	return artefact{
		name: "coredns", inputs: []string{"coredns"},
		build: func(ctx context.Context, b *Builder, dir string) error {
			return b.Go(ctx, "coredns", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir+"/coredns", ".")
		},
	}
}
