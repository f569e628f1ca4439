// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"

	"github.com/patchbay-net/patchbay/test/netlab"
)

// Where runtimes look for plugins and their configuration.
const (
	cniBin   = "/opt/cni/bin"
	cniConf  = "/etc/cni/net.d"
	cniCache = "/var/lib/cni"
)

// attachment is a leg or a pod's interface, as a runtime names it.
type attachment struct {
	conf      string // configuration list, a path inside the node
	container string
	netns     string
	ifName    string
}

// callCNI is the demo inside a node, in the part of the container runtime:
// demo cni add|del CONF CONTAINER NETNS INTERFACE.
func callCNI(args []string) int {
	flags := flag.NewFlagSet("cni", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil || flags.NArg() != 5 {
		fmt.Fprintln(os.Stderr, "usage: demo cni add|del CONF CONTAINER NETNS INTERFACE")
		return 2
	}
	a := attachment{flags.Arg(1), flags.Arg(2), flags.Arg(3), flags.Arg(4)}
	if err := a.run(flags.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// run adds or deletes the attachment through libcni.
func (a attachment) run(verb string) error {
	list, err := libcni.ConfListFromFile(a.conf)
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{cniBin}, cniCache, nil)
	rt := &libcni.RuntimeConf{
		ContainerID: a.container, NetNS: a.netns, IfName: a.ifName,
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", namespace}, {"K8S_POD_NAME", a.container}},
	}
	if verb == "del" {
		return cni.DelNetworkList(context.Background(), list, rt)
	}
	result, err := cni.AddNetworkList(context.Background(), list, rt)
	if err != nil {
		return err
	}
	return result.Print()
}

// add has the node's runtime add the attachment and returns the result.
func (a attachment) add(s *stage, node *netlab.Node) *types100.Result {
	cmd := node.Command(s.program("demo"), "cni", "add", a.conf, a.container, a.netns, a.ifName)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil {
		s.Fatalf("%s: CNI ADD of %s %s: %v: %s", node.Name, a.container, a.ifName, err, &log)
	}
	result := &types100.Result{}
	s.must(json.Unmarshal(out, result), "result of CNI ADD")
	return result
}

// del has the node's runtime delete the attachment.
func (a attachment) del(s *stage, node *netlab.Node) {
	node.Exec(s, s.program("demo"), "cni", "del", a.conf, a.container, a.netns, a.ifName)
}

// installCNI puts the plugins where the node's runtime looks for them.
func installCNI(s *stage, node *netlab.Node) {
	node.Exec(s, s.program("patchbayd"), "install-cni", "--dir", cniBin)
	_, err := os.Stat(node.Path(filepath.Join(cniBin, "patchbay-vswitch")))
	s.must(err, "install CNI plugins on "+node.Name)
}
