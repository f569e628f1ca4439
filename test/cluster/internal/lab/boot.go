// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const runtimeSocket = "/run/containerd/containerd.sock"

// Boot is the last stage of machine name: it starts the services and stays
// for as long as all of them run.
func (l *Lab) Boot(name string) error {
	m, err := l.machine(name)
	if err != nil {
		return err
	}
	ended := make(chan error)
	start := func(argv ...string) error { return l.startService(m, ended, argv...) }
	if m.ControlPlane {
		if err := l.bootControlPlane(m, start); err != nil {
			return err
		}
	}
	if err := l.bootNode(m, start); err != nil {
		return err
	}
	go func() { ended <- l.keepKubelet(m) }()
	return <-ended
}

// startService starts argv, its output in MACHINE/NAME.log, and sends to
// ended when it is over.
func (l *Lab) startService(m Machine, ended chan<- error, argv ...string) error {
	out, err := os.Create(l.path(m.Name, argv[0]+".log"))
	if err != nil {
		return fmt.Errorf("start %s: %w", argv[0], err)
	}
	defer out.Close()
	cmd := l.service(m, out, argv...)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", argv[0], err)
	}
	go func() { ended <- fmt.Errorf("%s ended: %w", argv[0], errors.Join(cmd.Wait(), errEnded)) }()
	return nil
}

func (l *Lab) service(m Machine, out io.Writer, argv ...string) *exec.Cmd {
	cmd := exec.Command(l.bin(argv[0]), argv[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Dir = l.path(m.Name)
	cmd.Env = append(os.Environ(), "PATH="+l.bin("")+":"+os.Getenv("PATH"), "HOME="+l.path(m.Name))
	return cmd
}

// keepKubelet runs m's kubelet, and again whenever it ends, with the lab's
// description of then. Its pid within the machine is in MACHINE/kubelet.pid.
func (l *Lab) keepKubelet(m Machine) error {
	out, err := os.Create(l.path(m.Name, "kubelet.log"))
	if err != nil {
		return fmt.Errorf("start kubelet: %w", err)
	}
	defer out.Close()
	for {
		if l, err = Load(l.Name, filepath.Dir(l.Dir)); err != nil {
			return err
		}
		if m, err = l.machine(m.Name); err != nil {
			return err
		}
		cmd := l.service(m, out, l.kubelet(m)...)
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start kubelet: %w", err)
		}
		if err := l.write(strconv.Itoa(cmd.Process.Pid), m.Name, "kubelet.pid"); err != nil {
			return err
		}
		fmt.Fprintln(out, "kubelet ended:", cmd.Wait())
		time.Sleep(time.Second)
	}
}

func (l *Lab) kubelet(m Machine) []string {
	return []string{"kubelet", "--config", l.path(m.Name, "kubelet.yaml"),
		"--kubeconfig", l.kubeconfig(m.Name),
		"--hostname-override", m.Name,
		"--node-labels", m.labels(),
		"--node-ip", strings.Join(l.families(m.Internal.V4.Addr().String(), m.Internal.V6.Addr().String()), ","),
		"--cert-dir", l.path(m.Name, "certs"), "-v=2"}
}

var errEnded = errors.New("a service is not to end")

// bootNode starts the container runtime and gives it the images.
func (l *Lab) bootNode(m Machine, start func(...string) error) error {
	if err := l.nodeConfig(m); err != nil {
		return err
	}
	if err := start("containerd", "--config", l.path(m.Name, "containerd.toml")); err != nil {
		return err
	}
	if err := awaitDial("unix", runtimeSocket); err != nil {
		return err
	}
	for _, archive := range l.Images {
		cmd := exec.Command(l.bin("ctr"), "-n", "k8s.io", "images", "import", "--local", archive)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("import %s: %w: %s", archive, err, out)
		}
	}
	return nil
}

// bootControlPlane starts etcd and the API server, and what watches it once
// its own roles are there.
func (l *Lab) bootControlPlane(m Machine, start func(...string) error) error {
	if err := start("etcd", "--data-dir", l.path(m.Name, "etcd-data"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379",
		"--listen-peer-urls=http://127.0.0.1:2380"); err != nil {
		return err
	}
	if err := start(append([]string{"kube-apiserver"}, l.apiServerFlags(m)...)...); err != nil {
		return err
	}
	admin := []string{"--kubeconfig", l.kubeconfig("admin"), "get", "--raw", "/readyz"}
	err := until(context.Background(), 2*time.Minute, "API server", func() bool {
		return exec.Command(l.bin("kubectl"), admin...).Run() == nil
	})
	if err != nil {
		return err
	}
	if err := start(append([]string{"kube-controller-manager"}, l.controllerFlags(m)...)...); err != nil {
		return err
	}
	return start(append([]string{"kube-scheduler", "--cert-dir=" + l.path(m.Name, "certs-scheduler")}, l.clientFlags("kube-scheduler")...)...)
}

// awaitDial waits until something listens.
func awaitDial(network, address string) error {
	return until(context.Background(), time.Minute, "dial "+address, func() bool {
		c, err := net.Dial(network, address)
		if err != nil {
			return false
		}
		return c.Close() == nil
	})
}
